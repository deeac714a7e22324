"""Projected gradient descent: U(x) = P_C(x - α ∇f(x)).

Source: Kotary, Dinh, Fioretto, "Backpropagation of Unrolled Solvers with Folded Optimization",
equation (4); convergence for α < 2/L: Beck, First-Order Methods in Optimization (2017), section 10.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from foldcore import (
    BoundRule,
    Constants,
    GradientStep,
    InnerFold,
    Param,
    ParametricProblem,
    ProgramStructure,
    QuadraticProgram,
    QuadraticTemplate,
    RuleOfConstants,
    SetAtom,
    SmoothProgram,
    Solution,
    Sparse,
    SparseMatrix,
    prepared_projection,
    recognise_set,
)

from .config import PGDConfig

if TYPE_CHECKING:
    from torch import Tensor

Projection = Callable[["Tensor"], "Tensor"]

_CONSTRAINTS = (
    "A", "b", "G", "h", "lower", "upper", "quadratic_P", "quadratic_q", "quadratic_r",
)  # fmt: skip


class PGDRule(RuleOfConstants):
    """One projected gradient step, with a closed-form projection or an inner fold."""

    api_version = 2
    config_class = PGDConfig

    def __init__(self, config: PGDConfig) -> None:
        self.config: PGDConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 5.0 if _closed_form(structure) is not None else 2.0

    def converges(self, structure: ProgramStructure) -> bool:
        known_step = isinstance(self.config.step_size, float) or not structure.smooth_objective
        return known_step and structure.convex is not False

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.has_regularizers:
            return "the objective has nonsmooth terms; projected gradient needs a smooth objective"
        if structure.only_set:
            return None
        if structure.smooth_constraints:
            return f"its constraints are not recognised as linear or quadratic ({structure.reason})"
        if self.config.projection == "closed_form" and _closed_form(structure) is None:
            return "its feasible set has no closed-form projection; use projection: inner"
        return None

    def inner_problems(self, problem: ParametricProblem) -> Mapping[str, ParametricProblem]:
        closed = _closed_form(problem.structure)
        if self.config.projection == "inner" or closed is None:
            return {"inner": _projection_problem(problem.structure.template)}
        return {}

    def bind_with(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], constants: Constants
    ) -> BoundRule:
        if "inner" in inner:
            projection: Projection = _InnerProjection(program, inner["inner"])
            return _BoundPGD(program, self.config, projection, constants)
        build = _closed_form(program.structure)
        if build is None:
            raise TypeError("pgd: bound without an inner fold to a set without closed form.")
        atom = build(program)
        fields = ("sets",) if program.structure.only_set else atom.factored
        closed = prepared_projection(atom, fields, constants)
        return _BoundPGD(program, self.config, closed, constants, closed.failed)


class _BoundPGD(GradientStep):
    """A gradient step and a projection; it starts inside the set."""

    def __init__(
        self,
        program: SmoothProgram,
        config: PGDConfig,
        project: Projection,
        constants: Constants,
        failed: Tensor | None = None,
    ) -> None:
        super().__init__(program, lambda y, step: project(y), config.step_size, failed, constants)
        self._project = project

    def initial(self, primal: Tensor | None = None) -> Tensor:
        start = super().initial(primal)
        return self.held(self._project(start), start)

    def inner_reports(self) -> Mapping[str, Solution]:
        if isinstance(self._project, _InnerProjection) and self._project.report is not None:
            return {"inner": self._project.report}
        return {}


class _InnerProjection:
    """Euclidean projection as the QP min ½‖x‖² - yᵀx over the set, solved by a fold."""

    def __init__(self, program: SmoothProgram, fold: InnerFold) -> None:
        self._fold = fold
        self._values: dict[str, Tensor] = {}
        for field in program.structure.template.varying:
            if field in _CONSTRAINTS:
                value = getattr(program.data, field)
                self._values[field] = value.values if isinstance(value, SparseMatrix) else value
        self.report: Solution | None = None

    def __call__(self, point: Tensor) -> Tensor:
        self.report = self._fold.solve_inner({"q": -point, **self._values})
        return self.report.primal


def _closed_form(structure: ProgramStructure) -> Callable[[SmoothProgram], SetAtom] | None:
    if structure.only_set:
        return lambda program: program.sets[0]
    if structure.smooth_constraints:
        return None
    build = recognise_set(structure.template)
    if build is None:
        return None
    return lambda program: build(program.data)


def _projection_problem(template: QuadraticTemplate) -> QuadraticProgram:
    """Return the projection onto a template's feasible set, varying fields named after themselves."""
    fields: dict[str, Tensor | Param | Sparse] = {}
    for field in _CONSTRAINTS:
        value = getattr(template, field)
        if isinstance(value, Param):
            value = Param(*value.shape, psd=value.psd, name=field)
        elif isinstance(value, Sparse) and isinstance(value.values, Param):
            values = Param(*value.values.shape, name=field)
            value = Sparse(value.rows, value.cols, value.shape, values)
        if value is not None:
            fields[field] = value
    n = template.n
    return QuadraticProgram(P=torch.eye(n, dtype=torch.float64), q=Param(n, name="q"), **fields)  # type: ignore[arg-type]
