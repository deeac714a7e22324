"""QuadraticProgram: the declaration of an LP, QP or QCQP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ..param import Param
from ..program.program import SmoothProgram
from ..program.structure import ProgramStructure, quadratic_structure
from ..quadratic.template import QuadraticTemplate
from .parametric import ParametricProblem, integer_columns

# Param is refused at run time; it is here so that typed code may still pass all fields as **fields.
IntegerField = Sequence[int] | Tensor | Param | None


@dataclass(frozen=True, eq=False)
class QuadraticProgram(QuadraticTemplate, ParametricProblem):
    """minimise ½ xᵀ½(P+Pᵀ)x + qᵀx  s.t.  Ax = b,  Gx <= h,  lower <= x <= upper, quadratic rows.

    A tensor is a constant, a :class:`Param` an input of the layer, None is absent. Quadratic rows
    read ½ xᵀP_i x + q_iᵀx <= r_i. Parameters are named after their field unless the Param has a name.

    Args:
        P: Hessian (n, n): dense, Sparse or Param.
        q: (n,).
        A, b: Equalities, (p, n) and (p,).
        G, h: Inequalities, (m, n) and (m,); +inf in h means absent.
        lower, upper: Bounds, (n,) or a number; ±inf means absent.
        quadratic_P, quadratic_q, quadratic_r: Quadratic rows, (k, n, n), (k, n), (k,).
        integer: Columns of x that must be whole numbers: indices, or a bool tensor (n,).

    Raises:
        ProblemError: If shapes disagree, a partner is missing (A without b) or a constant is NaN.
    """

    integer: IntegerField = None

    def __post_init__(self) -> None:
        super().__post_init__()
        columns = integer_columns(self.integer, self.n, "QuadraticProgram")
        object.__setattr__(self, "_integer", columns)

    @cached_property
    def structure(self) -> ProgramStructure:
        return quadratic_structure(self, self.__dict__["_integer"])

    def relaxed(self) -> QuadraticProgram:
        return replace(self, integer=None) if self.structure.integer else self

    def bind(self, values: Mapping[str, Tensor], batch: int) -> SmoothProgram:
        params: dict[str, Tensor] = {}
        batched: set[str] = set()
        for name, param in self.params.items():
            value = params[name] = values[name]
            if value.ndim > len(param.shape):
                batched.add(name)
        return SmoothProgram(
            self.bind_data(values),
            batch=batch,
            structure=self.structure,
            params=params,
            batched=frozenset(batched),
        )
