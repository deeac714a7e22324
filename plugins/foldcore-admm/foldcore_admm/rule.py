"""The alternating direction method of multipliers for LP and QP.

minimise ½xᵀPx + qᵀx  s.t.  Ax = b,  l <= Cx <= u, C being G (l = -inf, u = h) above the identity (the
bounds on x), is split by Cx = z with scaled multiplier v. The three steps of one iteration are

1. x⁺ = argmin ½xᵀPx + qᵀx + ρ/2‖Cx - z + v‖² s.t. Ax = b, a linear system whose matrix
   K = [[P + ρCᵀC, Aᵀ], [A, 0]] never changes: it is factored once;
2. z⁺ = clip(Cx⁺ + v, l, u);
3. v⁺ = v + Cx⁺ - z⁺.

The state is w = Cx + v, the argument of the clip: it holds both z = clip(w, l, u) and v = w - z, and
steps 2 and 3 are w⁺ = Cx⁺ + v with the next iteration's reading of it. Cycling through
(w -> z, v -> x⁺ -> w⁺) is therefore the same iteration as the published one in (x, z, v), in a state
of m instead of n + 2m numbers. The multiplier of l <= Cx <= u is y = ρv.

Source: Kotary, Dinh, Fioretto, "Backpropagation of Unrolled Solvers with Folded Optimization",
equations (29) and (30), the case C = I, l = 0, u = inf, where argmax is to be read as argmin; Boyd et
al., Distributed Optimization and Statistical Learning via ADMM (2011), section 5.2, and 3.4.3 for the
relaxation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foldcore import (
    BoundRule,
    Constants,
    Duals,
    FixedPointOperator,
    InnerFold,
    ProgramStructure,
    RuleOfConstants,
    SmoothProgram,
    Solution,
    ZeroOperator,
    recover_duals,
)
from foldcore.kkt import Ambiguity

from .config import ADMMConfig
from .penalty import penalty
from .splitting import Splitting
from .system import ConstantBlock


class ADMMRule(RuleOfConstants):
    """One ADMM iteration: for LP and QP with any linear constraints, one factorisation per bind."""

    api_version = 2
    config_class = ADMMConfig

    def __init__(self, config: ADMMConfig) -> None:
        self.config: ADMMConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 4.0

    def converges(self, structure: ProgramStructure) -> bool:
        return structure.convex is not False

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.has_regularizers:
            return "the objective has nonsmooth terms; admm needs a quadratic one"
        if structure.smooth_objective:
            return f"its objective is not recognised as quadratic ({structure.reason})"
        if structure.smooth_constraints:
            return f"its constraints are not recognised as linear ({structure.reason})"
        if structure.template.quadratic_r is not None:
            return "it has quadratic constraints; admm's splitting needs linear ones"
        if structure.without_rows:
            return f"{', '.join(structure.without_rows)} has no constraint rows to split off"
        return None

    def bind_with(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], constants: Constants
    ) -> BoundRule:
        splitting = Splitting(program)
        if not splitting.size:
            system = ConstantBlock(program, splitting, splitting.present, constants)
            return _BoundEquality(program, system)
        rho = penalty(self.config.rho, program, splitting, constants)
        system = ConstantBlock(program, splitting, rho * splitting.present, constants)
        return _BoundADMM(program, splitting, rho, self.config.over_relaxation, system)


class _BoundADMM(BoundRule):
    """The state is w = Cx + v."""

    def __init__(
        self,
        program: SmoothProgram,
        splitting: Splitting,
        rho: Tensor,
        relaxation: float,
        system: ConstantBlock,
    ) -> None:
        self._program, self._splitting = program, splitting
        self._rho, self._relaxation = rho, relaxation
        self._weight = rho * splitting.present
        self._system = system

    def _solve(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x⁺ and ν of step 1."""
        target = 2 * self._splitting.clip(state) - state
        return self._system.solve(self._splitting.pull(self._weight * target))

    def step(self, state: Tensor) -> Tensor:
        x, _ = self._solve(state)
        z = self._splitting.clip(state)
        updated = state + self._relaxation * (self._splitting.push(x) - z)
        return self._system.keep_failed(updated, state)

    def initial(self, primal: Tensor | None = None) -> Tensor:
        program = self._program
        if primal is None:
            primal = torch.zeros(
                program.batch, program.n, dtype=program.dtype, device=program.device
            )
        return self._splitting.clip(self._splitting.push(primal)).detach()

    def lift(self, solution: Solution) -> Tensor:
        with torch.no_grad():
            x, duals = solution.primal, solution.duals
            if duals is None:
                duals = recover_duals(self._program, x).duals
            return self._splitting.push(x) + self._splitting.join(duals) / self._rho

    def primal(self, state: Tensor) -> Tensor:
        return self._solve(state)[0]

    def duals(self, state: Tensor) -> Duals:
        multipliers = self._rho * (state - self._splitting.clip(state))
        return self._splitting.split(multipliers, self._solve(state)[1])

    def residual(self, state: Tensor, updated: Tensor) -> Tensor:
        """Return ‖U(w) - w‖∞ / step, inf for samples without a step. Shape (B,).

        (U(w) - w)/α = Cx⁺ - z is the primal residual, and ρ times it what the multipliers move:
        divided by α·min(1, 1/ρ) it bounds both, so that neither a tiny nor a huge ρ hides an error.
        """
        scaled = super().residual(state, updated)
        failed = self._system.failed
        return scaled if failed is None else torch.where(failed, float("inf"), scaled)

    @property
    def step_scale(self) -> Tensor:
        return (self._relaxation / self._rho.clamp(min=1)).reshape(-1)

    def failed(self) -> Tensor | None:
        return self._system.failed

    def ambiguities(
        self, cotangent: Tensor, parameters: Mapping[str, Tensor]
    ) -> Sequence[Ambiguity]:
        return self._system.ambiguities(self._splitting.pull(cotangent), parameters)


class _BoundEquality(BoundRule):
    """Neither inequalities nor bounds: step 1 alone is the solution, and the state is x itself.

    U does not depend on x, so Φ = 0, and ‖U(x) - x‖ is the error of x.
    """

    def __init__(self, program: SmoothProgram, system: ConstantBlock) -> None:
        self._program, self._system = program, system
        zeros = torch.zeros(program.batch, program.n, dtype=program.dtype, device=program.device)
        self._solution, self._multipliers = system.solve(zeros)

    def initial(self, primal: Tensor | None = None) -> Tensor:
        return torch.zeros_like(self._solution) if primal is None else primal

    def lift(self, solution: Solution) -> Tensor:
        return solution.primal.detach()

    def step(self, state: Tensor) -> Tensor:
        return self._system.keep_failed(self._solution, state)

    def primal(self, state: Tensor) -> Tensor:
        return state

    def duals(self, state: Tensor) -> Duals:
        empty, zero = state[:, :0], torch.zeros_like(state)
        return Duals(equality=self._multipliers, inequality=empty, lower=zero, upper=zero)

    def jacobian(self, state: Tensor) -> FixedPointOperator:
        return ZeroOperator(state)

    def residual(self, state: Tensor, updated: Tensor) -> Tensor:
        """Return ‖U(x) - x‖∞, inf for samples without a step. Shape (B,)."""
        gap = super().residual(state, updated)
        failed = self._system.failed
        return gap if failed is None else torch.where(failed, float("inf"), gap)

    def failed(self) -> Tensor | None:
        return self._system.failed

    def ambiguities(
        self, cotangent: Tensor, parameters: Mapping[str, Tensor]
    ) -> Sequence[Ambiguity]:
        return self._system.ambiguities(cotangent, parameters)
