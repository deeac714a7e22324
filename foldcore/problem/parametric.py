"""What every kind of parametric problem offers, and the structure that solvers and rules are chosen by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ProblemError
from ..param import Param
from ..solution import Duals

if TYPE_CHECKING:
    from torch import nn

    from ..program.program import SmoothProgram
    from .quadratic import QuadraticProgram


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
        smooth_constraints: Whether some constraints are functions that were not recognised.
        reason: Why parts were not recognised; empty if all were.
        sets: Class names of the constraint atoms, in order; see ``SmoothProgram.sets``.
        only_set: Whether the constraints are exactly one atom, so that its projection is theirs.
        has_regularizers: Whether the objective has nonsmooth terms beside its smooth part.
        has_prox: Whether it has exactly one, and that one has a proximal operator in closed form.
        has_image_prox: Whether each is g(Dx) with a proximal operator of g in closed form.
        auxiliary: Number of variables t >= |Dx| that lowering added behind the problem's own.
        without_rows: Of a lowered structure: class names of the terms and sets that have no rows, so
            that only solvers which know these themselves can solve it.
        integer: Columns of x that must be whole numbers, ascending.
    """

    n: int
    n_equality: int
    n_inequality: int
    problem_class: ProblemClass
    convex: bool | None
    template: QuadraticProgram
    smooth_objective: bool = False
    smooth_constraints: bool = False
    reason: str = ""
    sets: tuple[str, ...] = ()
    only_set: bool = False
    has_regularizers: bool = False
    has_prox: bool = False
    has_image_prox: bool = False
    auxiliary: int = 0
    without_rows: tuple[str, ...] = ()
    integer: tuple[int, ...] = ()

    @property
    def unconstrained(self) -> bool:
        """Whether there are neither rows nor bounds nor sets."""
        bounded = self.template.lower is not None or self.template.upper is not None
        return not (self.n_equality or self.n_inequality or bounded or self.sets)


class ParametricProblem(ABC):
    """minimise f(x, θ) subject to constraints, with θ given by named parameters."""

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of variables of one sample."""

    @property
    @abstractmethod
    def params(self) -> Mapping[str, Param]:
        """The parameters by name."""

    @property
    @abstractmethod
    def constants(self) -> Mapping[str, Tensor]:
        """Constant tensors by name; a layer keeps them as buffers and passes them to ``bind``."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Modules whose parameters the problem uses; a layer registers them as submodules."""
        return {}

    @property
    @abstractmethod
    def structure(self) -> ProgramStructure:
        """The structure; computed once."""

    @abstractmethod
    def bind(self, values: Mapping[str, Tensor], batch: int) -> SmoothProgram:
        """Bind values to parameters and constants.

        Args:
            values: One tensor for each name of ``params`` and ``constants`` (and ``module.name``
                for module parameters); a param may have a leading batch dimension of size ``batch``.
            batch: B.
        """

    @property
    def lowered_structure(self) -> ProgramStructure:
        """The structure of the problem without regularizers; see :class:`foldcore.lowering.Lowering`."""
        return self.structure

    def relaxed(self) -> ParametricProblem:
        """Return the problem without the demand that some columns be whole numbers.

        Invariant: ``structure.integer`` of what is returned is empty; nothing else differs.

        Raises:
            ProblemError: If a class of one's own declares whole numbers but not their relaxation.
        """
        if self.structure.integer:
            raise ProblemError(
                f"{type(self).__name__}: structure.integer is {self.structure.integer}, but the class "
                f"has no relaxed(); override it to return the problem without whole numbers."
            )
        return self

    def may_be_infinite(self, name: str) -> bool:
        """Whether a parameter is a bound, in which ±inf means absent."""
        template = self.structure.template
        bounds = ("h", "lower", "upper", "quadratic_r")
        return any(template.varying.get(field) == name for field in bounds)

    def order_duals(self, duals: Duals, *, inverse: bool = False) -> Duals:
        """Return the program's duals in the order of the user's definition, or the inverse."""
        return duals


def integer_columns(
    given: Sequence[int] | Tensor | Param | None, n: int, subject: str
) -> tuple[int, ...]:
    """Return the columns that are declared to be whole numbers, ascending.

    Args:
        given: Indices, as a sequence or a tensor of integers; or a mask (n,) of dtype bool; or None.
        n: Number of variables.
        subject: How messages name the problem.

    Raises:
        ProblemError: If it is neither, or an index is out of range or repeats.
    """
    if given is None:
        return ()
    expected = f"expected column indices from 0 to {n - 1}, or a bool tensor ({n},)"
    if isinstance(given, Tensor) and given.dtype == torch.bool:
        if tuple(given.shape) != (n,):
            raise ProblemError(
                f"{subject}: integer is a mask of shape {tuple(given.shape)}; {expected}."
            )
        return tuple(torch.nonzero(given).flatten().tolist())
    columns = given.tolist() if isinstance(given, Tensor) and given.ndim == 1 else given
    if isinstance(columns, (str, Tensor)) or not isinstance(columns, Sequence):
        raise ProblemError(f"{subject}: integer is {given!r}; {expected}.")
    for column in columns:
        if isinstance(column, bool) or not isinstance(column, int) or not 0 <= column < n:
            raise ProblemError(f"{subject}: integer contains {column!r}; {expected}.")
    if len(set(columns)) < len(columns):
        raise ProblemError(f"{subject}: integer names a column twice: {list(columns)}.")
    return tuple(sorted(columns))
