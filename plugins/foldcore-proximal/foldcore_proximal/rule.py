"""Proximal gradient: U(x) = prox_{αR}(x - α ∇f(x)).

Source: Kotary, Dinh, Fioretto, "Backpropagation of Unrolled Solvers with Folded Optimization",
equation (6); convergence for α < 2/L: Beck, First-Order Methods in Optimization (2017), section 10.4.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foldcore import (
    BoundRule,
    Indicator,
    InnerFold,
    ProgramStructure,
    Regularizer,
    SmoothProgram,
    Solution,
    UpdateRule,
    fastest_step,
    largest_curvature,
    largest_eigenvalue,
    linearise,
)

from .config import ProximalConfig


class ProximalRule(UpdateRule):
    """One proximal gradient step on a smooth objective plus one term with a known prox."""

    api_version = 1
    config_class = ProximalConfig

    def __init__(self, config: ProximalConfig) -> None:
        self.config: ProximalConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 6.0 if structure.has_prox else 1.0

    def converges(self, structure: ProgramStructure) -> bool:
        known_step = isinstance(self.config.step_size, float) or not structure.smooth_objective
        return known_step and structure.convex is not False

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.has_regularizers:
            if not structure.unconstrained:
                return (
                    "it has constraints beside its nonsmooth terms; lowered to rows in t >= |Dx| it "
                    "can be served by a rule for constrained problems"
                )
            if not structure.has_prox:
                return (
                    "its nonsmooth terms are not one term with a proximal operator in closed form; "
                    "for g(Dx), such as L1 with an operator, or several terms, use rule: fdpg"
                )
            return None
        if structure.unconstrained or structure.only_set:
            return None
        return (
            "its constraints are not one set with a projection; give one set as "
            "constraints=[...], or use rule: pgd with an inner fold"
        )

    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        return _BoundProximal(program, self.config)


class _BoundProximal(BoundRule):
    """The state is x itself."""

    def __init__(
        self, program: SmoothProgram, config: ProximalConfig, step_size: Tensor | None = None
    ) -> None:
        self._program, self._config = program, config
        self._term = _term(program)
        self._step_size = self._global_step() if step_size is None else step_size

    def _global_step(self) -> Tensor | None:
        """Return α per sample, (B,), where it does not depend on the point."""
        program = self._program
        ones = torch.ones(program.batch, dtype=program.dtype, device=program.device)
        if isinstance(self._config.step_size, float):
            return self._config.step_size * ones
        if not program.quadratic_objective:
            return None
        return (
            ones if program.data.P is None else _inverse(largest_eigenvalue(program.data.P)) * ones
        )

    @property
    def step_scale(self) -> Tensor:
        if self._step_size is None:
            raise TypeError("proximal: the step size of this objective is local; call at(z) first.")
        return self._step_size

    def initial(self, primal: Tensor | None = None) -> Tensor:
        program = self._program
        if primal is None:
            primal = torch.zeros(
                program.batch, program.n, dtype=program.dtype, device=program.device
            )
        return primal

    def lift(self, solution: Solution) -> Tensor:
        return solution.primal

    def at(self, state: Tensor) -> BoundRule:
        step_size = self._step_size
        if step_size is None:
            step_size = _inverse(largest_curvature(self._program, state))
        bound = self.with_step(step_size)
        if self._config.step_size != "auto":
            return bound
        return self.with_step(fastest_step(linearise(bound, state), step_size))

    def with_step(self, step: Tensor) -> BoundRule:
        return _BoundProximal(self._program, self._config, step)

    def step(self, state: Tensor) -> Tensor:
        step_size = self._step_size
        if step_size is None:
            step_size = _inverse(largest_curvature(self._program, state.detach()))
        moved = state - step_size[:, None] * self._program.gradient(state)
        return moved if self._term is None else self._term.prox(moved, step_size)

    def primal(self, state: Tensor) -> Tensor:
        return state


def _term(program: SmoothProgram) -> Regularizer | None:
    if program.sets:
        return Indicator(program.sets[0])
    return program.regularizers[0] if program.regularizers else None


def _inverse(curvature: Tensor) -> Tensor:
    """Return 1/L, and 1 for a sample without curvature."""
    return torch.where(curvature > 0, 1 / curvature, torch.ones_like(curvature))
