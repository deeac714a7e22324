"""Sequential quadratic programming: x⁺ = x + α d, d the minimiser of a quadratic model.

d minimises ½dᵀHd + ∇f(x)ᵀd subject to h + Jₕd = 0, g + J_g d <= 0, lower <= x + d <= upper, with H
the exact Hessian of the Lagrangian. At a KKT point with linearly independent active gradients
(LICQ), strict complementarity and second-order sufficiency the active set of this QP stays put
nearby, and d solves Hd + ∇f + J_aᵀμ = 0, J_a d + c_a = 0. There d = 0, so that

- the multipliers λ in H multiply d: ∂d/∂λ = 0, and they may be frozen;
- moving x by δ moves ∇f + J_aᵀμ by Hδ and c_a by J_aδ, which d = -δ cancels with unchanged μ:
  ∂d/∂x = -I.

Hence Φ = I - αI = (1-α)I, exactly 0 for α = 1, and Ψ is the implicit function theorem's derivative. In
the state (x, λ) with λ⁺ = λ + α(μ - λ) it is (1-α)I as well. An H that is not exact, one with δI
added for instance, leaves the fixed point alone and destroys ∂d/∂x = -I.

Source: Kotary, Dinh, Fioretto, "Backpropagation of Unrolled Solvers with Folded Optimization",
equations (31), with the ½ that is missing there, and (32), with λ⁺ = λ + α(μ - λ).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from foldcore import (
    BoundRule,
    Constants,
    Duals,
    FixedPointOperator,
    InnerFold,
    ParametricProblem,
    PrimalDualState,
    ProgramStructure,
    RuleOfConstants,
    SmoothProgram,
    Solution,
    ZeroOperator,
    is_positive_definite,
)
from foldcore.kkt import Held, held_constraints

from .config import SQPConfig
from .convexify import convexify
from .multipliers import best_multipliers
from .operators import ScaledIdentity
from .subproblem import constraint_values, subproblem, without_failed


class SQPRule(RuleOfConstants):
    """One SQP step, its QP solved by an inner fold: for QP, QCQP and smooth NLP, convex or not."""

    api_version = 2
    config_class = SQPConfig

    def __init__(self, config: SQPConfig) -> None:
        self.config: SQPConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 3.0

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.has_regularizers:
            return "the objective has nonsmooth terms; SQP needs a smooth objective"
        if structure.without_rows:
            return f"{', '.join(structure.without_rows)} has no constraint rows to linearise"
        return None

    def inner_problems(self, problem: ParametricProblem) -> Mapping[str, ParametricProblem]:
        return {"inner": subproblem(problem.structure)}

    def bind_with(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], constants: Constants
    ) -> BoundRule:
        return _BoundSQP(program, self.config, inner["inner"], constants)


class _BoundSQP(BoundRule):
    """The state is x, or (x, ν, μ, λ_lower, λ_upper), the last two only where there are such bounds.

    With x alone, the multipliers of a step are those that explain its x best: the lifted solution's,
    or an estimate by least squares. They are as accurate as x, so that polishing x polishes them; near
    a solution their error is multiplied by d and costs a step no order. They are constants for autograd.
    """

    failure = (
        "singular update step: the Hessian of the Lagrangian is not positive definite along the active "
        "constraints, so that the solution is not unique, or no minimum"
    )

    def __init__(
        self, program: SmoothProgram, config: SQPConfig, fold: InnerFold, constants: Constants
    ) -> None:
        self._program, self._config, self._fold = program, config, fold
        self._constants = constants
        self._state = PrimalDualState(program)
        self._given: Duals | None = None
        self._fitted: tuple[Tensor, Duals] | None = None
        self._failed: Tensor | None = None
        self._report: Solution | None = None

    def _join(self, x: Tensor, duals: Duals) -> Tensor:
        return self._state.join(x, duals) if self._config.dual_state else x

    def _split(self, state: Tensor) -> tuple[Tensor, Duals | None]:
        """Return x and the multipliers in the state, None where it has none."""
        return self._state.split(state) if self._config.dual_state else (state, None)

    def initial(self, primal: Tensor | None = None) -> Tensor:
        program = self._program
        if not self._config.dual_state:
            return program.like.new_zeros(program.batch, program.n) if primal is None else primal
        if primal is None:
            return self._state.start(None)
        return self._state.join(primal, best_multipliers(program, primal, None))

    def lift(self, solution: Solution) -> Tensor:
        x = solution.primal.detach()
        self._given, self._fitted = solution.duals, None
        return self._join(x, self._multipliers(x)) if self._config.dual_state else x

    def _multipliers(self, x: Tensor) -> Duals:
        """Return the multipliers that explain x (B, n) best, fitted once for each x."""
        if self._fitted is None or not torch.equal(x, self._fitted[0]):
            self._fitted = (x, best_multipliers(self._program, x, self._given))
        return self._fitted[1]

    def primal(self, state: Tensor) -> Tensor:
        return state[:, : self._program.n]

    def duals(self, state: Tensor) -> Duals | None:
        return self._split(state)[1] if self._config.dual_state else None

    def jacobian(self, state: Tensor) -> FixedPointOperator | None:
        """Return (1-α)I for the state x; None, for autograd's, with multipliers in the state.

        Proof: at x* the QP's solution is d = 0 with the problem's own multipliers μ. By LICQ, strict
        complementarity and second-order sufficiency its active set and (d, μ) depend smoothly on x,
        through Hd + ∇f + J_aᵀμ = 0 and J_a d + c_a = 0. Differentiated at d = 0 along δ these read
        H(δd) + Hδ + J_aᵀδμ = 0 and J_a(δd + δ) = 0, H in the second place being ∇²L: it is the QP's
        own H, as that is exact. The system is nonsingular, so that δd = -δ and δμ = 0. Terms added by
        convexification are constant multiples of J_a d + c_a and change neither equation.
        """
        if self._config.dual_state:
            return None
        if self._config.step_size == 1:
            return ZeroOperator(state)
        return ScaledIdentity(state, 1 - self._config.step_size)

    @property
    def step_scale(self) -> float:
        return self._config.step_size

    def failed(self) -> Tensor | None:
        return self._failed

    def inner_reports(self) -> Mapping[str, Solution]:
        return {} if self._report is None else {"inner": self._report}

    def step(self, state: Tensor) -> Tensor:
        x, duals = self._split(state)
        values, self._failed = self._objective(x, duals)
        values.update(constraint_values(self._program, x))
        if self._failed is not None:
            values = without_failed(values, self._failed)
        carries = self._config.dual_state
        self._report = answer = self._fold.solve_inner(values, duals=carries)
        target = x + answer.primal
        if carries:
            target = self._join(target, self._program.pad_duals(answer.duals))
        alpha = self._config.step_size
        updated = target if alpha == 1 else (1 - alpha) * state + alpha * target
        if self._failed is None:
            return updated
        return torch.where(self._failed[:, None], state.detach(), updated)

    def _objective(self, x: Tensor, duals: Duals | None) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return P and q of the subproblem, and the samples whose P cannot be made definite."""
        program = self._program
        gradient = program.gradient(x)
        if program.hessian_is_constant:
            hessian = program.hessian(x)
            if self._constants.once(
                "definite", ("P",), lambda: bool(is_positive_definite(hessian).all())
            ):
                return {"P": hessian, "q": gradient}, None
        duals = self._multipliers(x.detach()) if duals is None else duals
        active = held_constraints(program, x.detach(), duals)
        hessian = program.lagrangian_hessian(x, _without_inactive(duals, active))
        convex = convexify(program, x, hessian, active)
        q = gradient if convex.linear is None else gradient + convex.linear
        return {"P": convex.hessian, "q": q}, convex.failed


def _without_inactive(duals: Duals, active: Held) -> Duals:
    """Set multipliers of inactive rows to exactly 0: what a solver leaves there is no curvature."""
    zero = torch.zeros_like(duals.inequality)
    return replace(duals, inequality=torch.where(active.rows, duals.inequality, zero))
