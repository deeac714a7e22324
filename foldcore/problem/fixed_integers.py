"""The continuous problem that is left of one with whole numbers once these are known.

The integer columns stay variables, with lower = upper. Linear rows that concern integer columns alone
are decided then, and leave: beside fixed variables they would only make multipliers ambiguous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProblemError
from ..numerics.products import matvec
from ..numerics.sparse import Matrix, SparseMatrix
from ..param import Param, Sparse
from ..program.program import SmoothProgram
from ..program.structure import ProgramStructure
from ..quadratic.data import QuadraticData
from ..quadratic.template import MatrixField, QuadraticTemplate
from ..solution import Duals
from .parametric import ParametricProblem

WHOLE_NUMBERS = "whole numbers"
"""Their name among the bound values; no identifier, so that no parameter has it."""
_INF = float("inf")


class FixedIntegers(ParametricProblem):
    """A problem whose integer columns are held at given whole numbers.

    Invariant: if they are those of a solution of the original, the solutions of this problem are
    solutions of the original.

    The whole numbers are no parameter: they come with the values of ``bind``, and depend on nothing.
    Derivatives with respect to bounds of these columns, and to rows of them alone, are exactly zero.
    The multipliers of such rows are zero.

    Args:
        original: A problem with integer columns.
    """

    def __init__(self, original: ParametricProblem) -> None:
        self.original = original
        self._relaxed = original.relaxed()
        self._decided = _decided_rows(original.structure.template, original.structure.integer)

    @property
    def n(self) -> int:
        return self.original.n

    @property
    def params(self) -> Mapping[str, Param]:
        return self.original.params

    @property
    def constants(self) -> Mapping[str, Tensor]:
        return self.original.constants

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.original.modules

    @cached_property
    def structure(self) -> ProgramStructure:
        return _fixed_structure(self._relaxed.structure, self.original.structure.integer)

    @cached_property
    def lowered_structure(self) -> ProgramStructure:
        return _fixed_structure(self._relaxed.lowered_structure, self.original.structure.integer)

    def may_be_infinite(self, name: str) -> bool:
        return self.original.may_be_infinite(name)

    def order_duals(self, duals: Duals, *, inverse: bool = False) -> Duals:
        """Return duals with a zero for each equality row that left, or the inverse."""
        kept = self._decided.kept.to(duals.equality.device)
        count = self._decided.equality.numel()
        if inverse:
            duals = self.original.order_duals(duals, inverse=True)
            functions = duals.equality[..., count:]
            rows = duals.equality.index_select(-1, kept)
            return replace(duals, equality=torch.cat([rows, functions], dim=-1))
        linear = duals.equality[..., : kept.numel()]
        rows = linear.new_zeros(*linear.shape[:-1], count).index_copy(-1, kept, linear)
        functions = duals.equality[..., kept.numel() :]
        duals = replace(duals, equality=torch.cat([rows, functions], dim=-1))
        return self.original.order_duals(duals)

    def bind(self, values: Mapping[str, Tensor], batch: int) -> SmoothProgram:
        """Bind, with ``values["whole numbers"]`` of shape (k,) or (B, k).

        Raises:
            ProblemError: If they are not given.
        """
        if WHOLE_NUMBERS not in values:
            raise ProblemError(
                "FixedIntegers: bound without whole numbers; call the layer, which finds them."
            )
        program = self._relaxed.bind(values, batch)
        return program.restated(
            self._fixed_data(program.data, values[WHOLE_NUMBERS]),
            program.functions,
            structure=self.structure,
            sets=program.sets,
            regularizers=program.regularizers,
        )

    def excess(self, data: QuadraticData, whole: Tensor) -> Tensor:
        """Return by how much whole numbers (B, k) violate the rows that they decide, (B,).

        Largest violation, relative to 1 + the size of the row's right-hand side. Equality rows of a
        dense parameter are not looked at: they stay in the problem.
        """
        x = whole.new_zeros(whole.shape[0], self.n)
        x[:, list(self.original.structure.integer)] = whole
        worst = whole.new_zeros(whole.shape[0])
        if data.A is not None and data.b is not None:
            gap = (matvec(data.A, x) - data.b).abs() / (1 + data.b.abs())
            decided = self._decided.equality.to(whole.device)
            worst = worst.maximum(torch.where(decided, gap, 0.0).amax(-1))
        decided_rows = self._decided_inequality(data)
        if data.G is not None and data.h is not None and decided_rows is not None:
            gap = (matvec(data.G, x) - data.h) / (1 + data.h.abs().nan_to_num(posinf=0.0))
            worst = worst.maximum(torch.where(decided_rows, gap, 0.0).amax(-1))
        return worst

    def undroppable(self, data: QuadraticData) -> Tensor | None:
        """Return the samples, (B,) or () bool, in which a row of a dense parameter A is decided.

        Samples must have equally many rows, so such a row stays beside fixed variables, and its
        multiplier and gradient are not unique. None where A is no dense parameter.
        """
        if not isinstance(self.original.structure.template.A, Param):
            return None
        rows = _without_entries(data.A, self.original.structure.integer)
        return None if rows is None else rows.any(-1)

    def _fixed_data(self, data: QuadraticData, whole: Tensor) -> QuadraticData:
        changes: dict[str, Any] = {}
        if data.A is not None and data.b is not None and bool(self._decided.equality.any()):
            kept = self._decided.kept.to(whole.device)
            left = kept.numel() > 0
            changes["A"] = _rows_of(data.A, kept) if left else None
            changes["b"] = data.b.index_select(-1, kept) if left else None
            # The rows that left decide the whole numbers, with derivative zero: not with none.
            entries = data.A.values if isinstance(data.A, SparseMatrix) else data.A.flatten(-2)
            for value in (data.b, entries):
                whole = whole + 0.0 * value.sum(-1, keepdim=True)
        decided = self._decided_inequality(data)
        if data.h is not None and decided is not None:
            changes["h"] = torch.where(decided, _INF, data.h)
        changes["lower"] = self._fixed_bound(data.lower, whole, -_INF)
        changes["upper"] = self._fixed_bound(data.upper, whole, _INF)
        return replace(data, **changes)

    def _decided_inequality(self, data: QuadraticData) -> Tensor | None:
        if data.G is None:
            return None
        known = self._decided.inequality
        if known is None:
            return _without_entries(data.G, self.original.structure.integer)
        return known.to(data.G.rows.device if isinstance(data.G, SparseMatrix) else data.G.device)

    def _fixed_bound(self, bound: Tensor | None, whole: Tensor, absent: float) -> Tensor:
        if bound is None:
            bound = whole.new_full((self.n,), absent)
        lead = max(bound.shape[:-1], whole.shape[:-1], key=len)
        columns = torch.tensor(self.original.structure.integer, device=whole.device)
        whole = whole.expand(*lead, columns.numel())
        return bound.expand(*lead, self.n).index_copy(-1, columns, whole)


@dataclass(frozen=True)
class _Decided:
    """Which rows concern integer columns alone.

    Attributes:
        equality: Rows of A, (p,) bool; none of those of a dense parameter, whose zeros may differ.
        inequality: Rows of G, (m,) bool; None for a dense parameter, whose zeros are looked up.
    """

    equality: Tensor
    inequality: Tensor | None

    @property
    def kept(self) -> Tensor:
        """Indices of the other rows of A."""
        return torch.nonzero(~self.equality).flatten()


def _decided_rows(template: QuadraticTemplate, integer: Sequence[int]) -> _Decided:
    equality = _without_entries(template.A, integer)
    if equality is None:
        rows = 0 if template.A is None else int(template.A.shape[0])
        equality = torch.zeros(rows, dtype=torch.bool)
    return _Decided(equality, _without_entries(template.G, integer))


def _fixed_structure(structure: ProgramStructure, integer: Sequence[int]) -> ProgramStructure:
    """Return the structure of the fixed problem; ``integer`` are the columns of the original."""
    template, n = structure.template, structure.n
    decided = _decided_rows(template, integer)
    changes: dict[str, Any] = {name: Param(n, name=f"fixed {name}") for name in ("lower", "upper")}
    left = int(decided.kept.numel())
    if left < decided.equality.numel():
        changes["A"] = _rows_of(template.A, decided.kept) if left else None
        kept: Param | Tensor | None = None
        if isinstance(template.b, Param):
            kept = Param(left, name=template.b.name or "b")
        elif template.b is not None:
            kept = template.b[decided.kept]
        changes["b"] = kept if left else None
    if template.G is not None and decided.inequality is None:
        changes["h"] = Param(int(template.G.shape[0]), name="fixed h")
    elif decided.inequality is not None and isinstance(template.h, Tensor):
        changes["h"] = torch.where(decided.inequality, _INF, template.h)
    return replace(
        structure,
        n_equality=structure.n_equality - decided.equality.numel() + left,
        template=replace(template, **changes),
        only_set=False,  # the fixed columns are further constraints
    )


def _without_entries(matrix: MatrixField | Matrix, columns: Sequence[int]) -> Tensor | None:
    """Return the rows that have no entry outside the columns, (*batch, m) bool; None where unknown."""
    if matrix is None or isinstance(matrix, Param):
        return None
    if isinstance(matrix, Tensor):
        others = matrix.detach().clone()
        others[..., list(columns)] = 0.0
        return (others == 0).all(-1)
    inside = torch.isin(matrix.cols, torch.tensor(columns, device=matrix.cols.device))
    counts = ~inside
    if isinstance(matrix, Sparse) and isinstance(matrix.values, Tensor):
        counts = counts & (matrix.values != 0)
    empty = torch.ones(matrix.shape[0], dtype=torch.bool, device=matrix.rows.device)
    empty[matrix.rows[counts]] = False
    return empty


def _rows_of(matrix: MatrixField | Matrix, kept: Tensor) -> MatrixField | Matrix:
    """Return some rows of a matrix, bound or declared, in this order."""
    if isinstance(matrix, Tensor):
        return matrix.index_select(-2, kept)
    if not isinstance(matrix, (Sparse, SparseMatrix)):
        return matrix
    place = torch.full((matrix.shape[0],), -1, device=kept.device).index_copy(
        0, kept, torch.arange(kept.numel(), device=kept.device)
    )
    entries = torch.nonzero(place[matrix.rows] >= 0).flatten()
    rows, cols = place[matrix.rows[entries]], matrix.cols[entries]
    shape = (int(kept.numel()), matrix.shape[1])
    if isinstance(matrix, SparseMatrix):
        return SparseMatrix(rows, cols, shape, matrix.values.index_select(-1, entries))
    values = matrix.values
    if isinstance(values, Param):
        return Sparse(rows, cols, shape, Param(int(entries.numel()), name=values.name or "A"))
    return Sparse(rows, cols, shape, values[entries])
