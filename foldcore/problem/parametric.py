"""What every kind of parametric problem offers, and the structure that solvers and rules are chosen by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ProblemError
from ..param import Param
from ..program.structure import ProgramStructure
from ..solution import Duals

if TYPE_CHECKING:
    from torch import nn

    from ..program.program import SmoothProgram


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
