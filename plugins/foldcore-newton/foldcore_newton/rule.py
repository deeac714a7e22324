"""One Newton step on the KKT system with the active set held fixed.

With the active set A of a KKT point under LICQ and strict complementarity, the conditions
∇f + Jₕᵀν + J_Aᵀμ_A - λ_lower + λ_upper = 0, h = 0, g_A = 0, x = bound on fixed variables form a smooth
square system. A Newton step from its root stays there to second order, so Φ = ∂U/∂z = 0: the adjoint
needs no product, and Ψ is the implicit function theorem's derivative.

Source: Nocedal and Wright, Numerical Optimization (2006), section 18.1 (Newton on KKT); the
derivative: Amos and Kolter, OptNet (2017), equation (6), restricted to the active set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from foldcore import (
    BoundRule,
    Duals,
    FixedPointOperator,
    InnerFold,
    PrimalDualState,
    ProgramStructure,
    SmoothProgram,
    Solution,
    UpdateRule,
    ZeroOperator,
    recover_duals,
)
from foldcore.kkt import (
    Ambiguity,
    Held,
    SolutionSystem,
    confirmed_step,
    held_constraints,
    solution_ambiguities,
)

from .config import NewtonConfig

_INCONSISTENT = 1e-6
"""Residual of a step's equations, relative to their terms, above which they have no solution."""


class NewtonRule(UpdateRule):
    """Newton on the KKT system: Φ = 0, for LP, QP, QCQP and smooth NLP, convex or not."""

    api_version = 1
    config_class = NewtonConfig
    decides_active_set = True

    def __init__(self, config: NewtonConfig) -> None:
        self.config: NewtonConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 10.0

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.has_regularizers:
            return "the objective has nonsmooth terms; Newton needs a smooth objective"
        if structure.without_rows:
            return f"{', '.join(structure.without_rows)} has no constraint rows to form a KKT system of"
        return None

    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        return _BoundNewton(program)


class _BoundNewton(BoundRule):
    """The state is (x, ν, μ, λ_lower, λ_upper), the last two only where there are such bounds."""

    failure = "singular update step: the equations of the active constraints contradict each other"

    def __init__(self, program: SmoothProgram) -> None:
        self._program = program
        self._state = PrimalDualState(program)
        self._last: tuple[SolutionSystem, Tensor] | None = None
        self._guess: Held | None = None
        self._regular = True

    def initial(self, primal: Tensor | None = None) -> Tensor:
        return self._state.start(primal)

    def lift(self, solution: Solution) -> Tensor:
        duals = solution.duals
        if duals is None:
            duals = recover_duals(self._program, solution.primal).duals
        return self._state.join(solution.primal, duals)

    def primal(self, state: Tensor) -> Tensor:
        return state[:, : self._program.n]

    def duals(self, state: Tensor) -> Duals:
        return self._state.split(state)[1]

    def jacobian(self, state: Tensor) -> FixedPointOperator:
        return ZeroOperator(state)

    def failed(self) -> Tensor | None:
        """Return the samples whose equations have no solution: a wrong active set, or wild data."""
        if self._last is None:
            return None
        system, found = self._last
        if self._regular:
            return None
        residual = system.system.residual(system.right, found)
        return ~(residual <= _INCONSISTENT)

    def saddles(self) -> Tensor | None:
        if self._last is None or self._regular:
            return None
        return self._last[0].system.factors.nonconvex

    def ambiguities(
        self, cotangent: Tensor, parameters: Mapping[str, Tensor]
    ) -> Sequence[Ambiguity]:
        if self._last is None or self._regular:
            return ()
        system, found = self._last
        x, duals = self._state.split(cotangent)
        return solution_ambiguities(system, found, system.pack_cotangent(x, duals), parameters)

    def step(self, state: Tensor) -> Tensor:
        x, duals = self._state.split(state)
        program = self._program
        guess = held = held_constraints(program, x.detach(), duals)
        known = None
        if self._last is not None and program.hessian_is_constant:
            known = self._last[0]
            # What the last step made of the same guess it would make of it again.
            if self._guess is not None and self._guess.same(guess):
                held = known.held
        self._guess = guess
        system, found = confirmed_step(program, x, duals, held, known)
        self._last = system, found
        self._regular = system.system.factors.careful is None
        new, multipliers = system.unpack(found)
        return self._state.join(new, multipliers)
