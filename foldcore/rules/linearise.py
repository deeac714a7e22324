"""The four ways to differentiate one and the same configuration (Kotary, Dinh, Fioretto, figure 1).

fold                one step at the solution, its adjoint solved as a linear system
fixed_point_unfold  K steps on the graph, started at the solution: K products of linear fixed-point
                    iteration on the same system, v_{K-1} of equation (25)
unfold              K steps on the graph from a starting point; inner problems are folds
unroll              likewise, with inner problems unrolled too
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..fold.backward.fixed_point import RecordedStep
from ..interfaces.adjoint import FixedPointOperator
from ..interfaces.rule import BoundRule
from ..solution import Solution, Status


def one_step(bound: BoundRule, state: Tensor) -> tuple[Tensor, FixedPointOperator]:
    """Evaluate one step of a rule on the graph and return it with its Jacobian Φ.

    Args:
        state: z*, detached. Shape (B, s).
    """
    known = bound.jacobian(state)
    if known is not None:
        return bound.step(state), known
    leaf = state.detach().requires_grad_(torch.is_grad_enabled())
    updated = bound.step(leaf)
    return updated, RecordedStep(leaf, updated)


def linearise(bound: BoundRule, state: Tensor) -> FixedPointOperator:
    """Return Φ of a rule at a state (B, s), detached from everything else."""
    with torch.enable_grad():
        return one_step(bound, state.detach())[1]


class Iterates:
    """Steps of a rule on the graph, with the worst report of the inner folds met on the way."""

    def __init__(self, bound: BoundRule) -> None:
        self._bound = bound
        self.inner: dict[str, Solution] = {}
        self.failed: Tensor | None = None

    def run(self, state: Tensor, iterations: int) -> Tensor:
        """Return the state after ``iterations`` steps, on the graph. Shape (B, s)."""
        for _ in range(iterations):
            state = self._bound.step(state)
            self._note(self._bound.inner_reports())
            failed = self._bound.failed()
            if failed is not None:
                self.failed = failed if self.failed is None else self.failed | failed
        return state

    def _note(self, reports: Mapping[str, Solution]) -> None:
        for name, report in reports.items():
            held = self.inner.get(name)
            if held is None or _failures(report.status) >= _failures(held.status):
                self.inner[name] = report


def _failures(status: tuple[Status, ...]) -> int:
    return sum(not one.ok for one in status)
