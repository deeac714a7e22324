"""Gradient steps followed by a projection or proximal operator, and their step sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..interfaces.rule import BoundRule
from ..numerics.eigenvalues import largest_eigenvalue
from ..program.program import SmoothProgram
from ..solution import Solution
from .constants import Constants
from .curvature import largest_curvature
from .linearise import linearise
from .spectrum import fastest_step

Prox = Callable[[Tensor, Tensor], Tensor]
"""(y, α) -> prox_{αR}(y) or P_C(y): shapes (B, n), (B,) -> (B, n)."""


class GradientStep(BoundRule):
    """U(x) = prox_{αR}(x - α ∇f(x)); the state is x itself.

    Any α keeps the fixed point. Samples that the operator fails for keep their x, without gradient.

    Source: Beck, First-Order Methods in Optimization (2017), section 10.2.

    Args:
        program: f, with its parameters bound.
        prox: The operator, differentiable; what it returns for failed samples is discarded.
        step_size: α, in units of x per gradient. None: 1/L per sample, L by power iteration on the
            Hessian, of the quadratic objective or at the point. "auto": :meth:`at` chooses the one
            that minimises ρ(Φ), per sample.
        failed: Samples that the operator fails for, (B,) bool; None for none.
        constants: Keeps L where P is a constant; None computes it anew.
    """

    def __init__(
        self,
        program: SmoothProgram,
        prox: Prox,
        step_size: float | Literal["auto"] | None,
        failed: Tensor | None = None,
        constants: Constants | None = None,
    ) -> None:
        self._program, self._prox, self._failed = program, prox, failed
        self._fastest = step_size == "auto"
        self._step_size = self._global_step(step_size, constants or Constants())

    def _global_step(self, given: float | str | None, constants: Constants) -> Tensor | None:
        """Return α per sample, (B,), where it does not depend on the point."""
        program = self._program
        ones = torch.ones(program.batch, dtype=program.dtype, device=program.device)
        if isinstance(given, float):
            return given * ones
        if not program.quadratic_objective:
            return None
        hessian = program.data.P
        if hessian is None:
            return ones
        return constants.once("step", ("P",), lambda: _inverse(largest_eigenvalue(hessian))) * ones

    def _step_at(self, state: Tensor) -> Tensor:
        if self._step_size is not None:
            return self._step_size
        return _inverse(largest_curvature(self._program, state.detach()))

    @property
    def step_scale(self) -> Tensor:
        if self._step_size is None:
            raise TypeError("GradientStep: this objective's step size is local; call at(z) first.")
        return self._step_size

    def initial(self, primal: Tensor | None = None) -> Tensor:
        if primal is not None:
            return primal
        program = self._program
        return torch.zeros(program.batch, program.n, dtype=program.dtype, device=program.device)

    def lift(self, solution: Solution) -> Tensor:
        return solution.primal

    def at(self, state: Tensor) -> BoundRule:
        step_size = self._step_at(state)
        bound = self.with_step(step_size)
        if not self._fastest:
            return bound
        return self.with_step(fastest_step(linearise(bound, state), step_size))

    def with_step(self, step: Tensor) -> BoundRule:
        other = copy.copy(self)
        other._step_size = step
        return other

    def step(self, state: Tensor) -> Tensor:
        step_size = self._step_at(state)
        moved = state - step_size[:, None] * self._program.gradient(state)
        return self.held(self._prox(moved, step_size), state)

    def held(self, updated: Tensor, state: Tensor) -> Tensor:
        """Return the update, with failed samples at ``state`` without gradient. All (B, n)."""
        if self._failed is None:
            return updated
        return torch.where(self._failed[:, None], state.detach(), updated)

    def primal(self, state: Tensor) -> Tensor:
        return state

    def residual(self, state: Tensor, updated: Tensor) -> Tensor:
        """Return ‖U(x) - x‖∞ / α, inf for failed samples, which are at rest nowhere. Shape (B,)."""
        gap = super().residual(state, updated)
        return gap if self._failed is None else torch.where(self._failed, float("inf"), gap)

    def failed(self) -> Tensor | None:
        return self._failed


def _inverse(curvature: Tensor) -> Tensor:
    """Return 1/L, and 1 for a sample without curvature."""
    return torch.where(curvature > 0, 1 / curvature, torch.ones_like(curvature))
