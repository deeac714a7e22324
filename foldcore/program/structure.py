"""What is known of a problem before any parameter has a value: what solvers and rules are chosen by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from torch import Tensor

from ..numerics.definiteness import is_positive_semidefinite
from ..param import Param, Sparse
from ..quadratic.template import QuadraticTemplate


class ProblemClass(str, Enum):
    """Classes of problems, by what a solver must be able to do."""

    LP = "lp"
    QP = "qp"
    """Convex; where convexity depends on parameters it is checked per sample at the call."""
    NONCONVEX_QP = "nonconvex_qp"
    QCQP = "qcqp"
    NONCONVEX_QCQP = "nonconvex_qcqp"
    NLP = "nlp"

    @property
    def quadratic(self) -> bool:
        """Whether problems of this class are given as quadratic data."""
        return self is not ProblemClass.NLP


@dataclass(frozen=True, eq=False)
class ProgramStructure:
    """What is known of a problem before any parameter has a value.

    Attributes:
        n: Number of variables.
        n_equality, n_inequality: Rows of :meth:`SmoothProgram.equality` and ``inequality``.
        problem_class: See :class:`ProblemClass`.
        convex: True or False where known, None where it depends on parameters or is unknown.
        template: The quadratic data with constants in place and a Param for what varies; holds
            the recognised parts only (P and q are None where the objective is not quadratic).
        smooth_objective: Whether the objective is a function that was not recognised as quadratic.
        separable_objective: Whether that function is proven a sum of functions of single variables, so
            that its Hessian is diagonal.
        smooth_constraints: Whether some constraints are functions that were not recognised.
        reason: Why parts were not recognised; empty if all were.
        sets: Class names of the constraint atoms, in order; see ``SmoothProgram.sets``.
        only_set: Whether the constraints are exactly one atom, so that its projection is theirs.
        has_regularizers: Whether the objective has nonsmooth terms beside its smooth part.
        has_prox: Whether it has exactly one, and that one has a proximal operator in closed form.
        has_image_prox: Whether each is g(Dx) with a proximal operator of g in closed form.
        auxiliary: Number of variables t >= |Dx| that lowering added behind the problem's own.
        without_rows: Class names of the terms and sets that have no constraint rows, so that only solvers
            and rules which know these themselves can take the problem.
        varying_atoms: "sets", "regularizers" or both, where an atom of these depends on a parameter.
        integer: Columns of x that must be whole numbers, ascending.
    """

    n: int
    n_equality: int
    n_inequality: int
    problem_class: ProblemClass
    convex: bool | None
    template: QuadraticTemplate
    smooth_objective: bool = False
    separable_objective: bool = False
    smooth_constraints: bool = False
    reason: str = ""
    sets: tuple[str, ...] = ()
    only_set: bool = False
    has_regularizers: bool = False
    has_prox: bool = False
    has_image_prox: bool = False
    auxiliary: int = 0
    without_rows: tuple[str, ...] = ()
    varying_atoms: frozenset[str] = frozenset()
    integer: tuple[int, ...] = ()

    @cached_property
    def changed(self) -> frozenset[str]:
        """What may differ between calls: data fields, "sets", "regularizers"."""
        return frozenset(self.template.varying) | self.varying_atoms

    @property
    def unconstrained(self) -> bool:
        """Whether there are neither rows nor bounds nor sets."""
        bounded = self.template.lower is not None or self.template.upper is not None
        return not (self.n_equality or self.n_inequality or bounded or self.sets)


def quadratic_structure(
    template: QuadraticTemplate, integer: tuple[int, ...] = ()
) -> ProgramStructure:
    """Return the structure of the problem that consists of a template's data alone."""
    convex = _convexity(template)
    if template.quadratic_r is not None:
        kind = ProblemClass.NONCONVEX_QCQP if convex is False else ProblemClass.QCQP
    elif template.P is None:
        kind = ProblemClass.LP
    else:
        kind = ProblemClass.NONCONVEX_QP if convex is False else ProblemClass.QP
    rows = (template.b, template.h, template.quadratic_r)
    count = [0 if v is None else int(v.shape[0]) for v in rows]
    return ProgramStructure(
        n=template.n,
        n_equality=count[0],
        n_inequality=count[1] + count[2],
        problem_class=kind,
        convex=convex,
        template=template,
        integer=integer,
    )


def _convexity(template: QuadraticTemplate) -> bool | None:
    known: list[bool | None] = []
    for value in (template.P, template.quadratic_P):
        param = value.values if isinstance(value, Sparse) else value
        if value is None:
            continue
        if isinstance(param, Param):
            known.append(True if param.psd else None)
        elif isinstance(value, Sparse):
            known.append(None)
        elif isinstance(value, Tensor):
            known.append(bool(is_positive_semidefinite(value).all()))
    if False in known:
        return False
    return None if None in known else True
