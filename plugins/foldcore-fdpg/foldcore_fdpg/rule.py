"""Dual proximal gradient: U(w) = -prox_{αg*}(αD x(w) - w), x(w) = P⁻¹(Dᵀw - q).

For min ½xᵀPx + qᵀx + g(Dx). With P = I, q = -d and g = λ‖·‖₁ this is (28a, b) of Kotary, Dinh,
Fioretto, "Backpropagation of Unrolled Solvers with Folded Optimization", with α in place of ¼, which
assumes ‖D‖² <= 4. Their momentum (28c, d) depends on the iteration's number and leaves the fixed point as
it is: it serves the solver, and is not folded. Source: Beck, First-Order Methods in Optimization (2017),
chapter 12.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from foldcore import (
    BoundRule,
    Constants,
    FixedPointOperator,
    InnerFold,
    ProgramStructure,
    RuleOfConstants,
    SmoothProgram,
    Solution,
    fastest_step,
    linearise,
    to_dense,
)

from .config import FDPGConfig
from .dual_problem import DualProblem
from .jacobian import BoxStepOperator
from .lifting import lift_absolute, lift_general


class FDPGRule(RuleOfConstants):
    """One step on the dual of a strongly convex quadratic plus g(Dx), the prox of g known."""

    api_version = 2
    config_class = FDPGConfig

    def __init__(self, config: FDPGConfig) -> None:
        self.config: FDPGConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 5.0 if structure.has_image_prox else 0.0

    def converges(self, structure: ProgramStructure) -> bool:
        # A positive definite P is checked at the call; the default step is below 2/L.
        return not isinstance(self.config.step_size, float) and structure.convex is not False

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if not structure.has_regularizers:
            return "the objective has no nonsmooth term g(Dx), whose dual this rule works on"
        return unsuitable(structure)

    def bind_with(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], constants: Constants
    ) -> BoundRule:
        return _BoundFDPG(program, self.config, constants)


def unsuitable(structure: ProgramStructure) -> str | None:
    """Return why min ½xᵀPx + qᵀx + g(Dx) does not describe a problem, or None where it does."""
    if not structure.unconstrained:
        return (
            "it has constraints; give sets as regularizers=[Indicator(set)], or use a rule for "
            "constrained problems on the lowered form with variables t >= |Dx|"
        )
    if structure.smooth_objective:
        return f"its smooth objective is not recognised as quadratic ({structure.reason})"
    if structure.template.P is None:
        return "its smooth objective is linear; the dual needs a positive definite P"
    if not structure.has_image_prox:
        return "the proximal operator of one of its nonsmooth terms is unknown"
    return None


class _BoundFDPG(BoundRule):
    """The state is w."""

    def __init__(self, program: SmoothProgram, config: FDPGConfig, constants: Constants) -> None:
        data = program.data
        if data.P is None:
            raise TypeError("fdpg: bound to a problem without P.")
        self._program = program
        self._dual = DualProblem(
            to_dense(data.P), data.q, program.regularizers, program.batch, constants
        )
        self._config = config
        if not isinstance(config.step_size, float):
            curvature = self._dual.curvature
            self._step_size = torch.where(curvature > 0, 1 / curvature, torch.ones_like(curvature))
        else:
            self._step_size = torch.full(
                (program.batch,), config.step_size, dtype=program.dtype, device=program.device
            )

    @property
    def step_scale(self) -> Tensor:
        return self._step_size

    def initial(self, primal: Tensor | None = None) -> Tensor:
        if primal is None:
            return self._dual.zeros()
        return self.lift(Solution(primal, ()))

    def lift(self, solution: Solution) -> Tensor:
        """Return w of a solution; x(w) is then at least as accurate as the solution's primal.

        Unique where the rows of D that x maps to zero are linearly independent.
        """
        with torch.no_grad():
            x = solution.primal
            gradient = self._program.gradient(x)
            bound = self._dual.box
            if bound is None or not self._dual.dense:
                return lift_general(self._dual, x, gradient)
            return lift_absolute(self._dual, x, gradient, bound, self._step_size)

    def at(self, state: Tensor) -> BoundRule:
        if self._config.step_size != "auto":
            return self
        return self.with_step(fastest_step(linearise(self, state), self._step_size))

    def with_step(self, step: Tensor) -> BoundRule:
        other = copy.copy(self)
        other._step_size = step.expand(self._program.batch)
        return other

    def step(self, state: Tensor) -> Tensor:
        return self._dual.descend(state, self._step_size)

    def primal(self, state: Tensor) -> Tensor:
        # On the graph of D, P and q: x depends on them directly, not only through w.
        return self._dual.primal(state)

    def jacobian(self, state: Tensor) -> FixedPointOperator | None:
        box = self._dual.box
        if box is None or not self._dual.gram_pays:
            return None
        with torch.no_grad():
            # As autograd has it: an entry that meets its bound exactly counts as free.
            free = self._dual.unclamped(state, self._step_size).abs() <= box
        return BoxStepOperator(self._dual.gram, free, self._step_size)

    def failed(self) -> Tensor | None:
        bad = self._dual.bad
        return bad.expand(self._program.batch) if bool(bad.any()) else None
