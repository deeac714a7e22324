"""QuadraticData: quadratic problem data with tensors only, the common language of quadratic solvers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..numerics.products import concatenate, matvec, to_dense
from ..numerics.sparse import Matrix


@dataclass(frozen=True, eq=False)
class QuadraticData:
    """Quadratic data with values bound; the common language of quadratic solvers.

    minimise ½ xᵀPx + qᵀx  s.t.  Ax = b,  Gx <= h,  lower <= x <= upper,
    ½ xᵀP_i x + q_iᵀx <= r_i for each quadratic row i.

    Each field is shared by the batch ((n,), (m, n), …) or has a leading batch dimension. P is
    symmetric. A missing field is None. ±inf in h, lower, upper means absent.
    """

    n: int
    P: Matrix | None = None
    q: Tensor | None = None
    A: Matrix | None = None
    b: Tensor | None = None
    G: Matrix | None = None
    h: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None
    quadratic_P: Tensor | None = None
    quadratic_q: Tensor | None = None
    quadratic_r: Tensor | None = None

    @property
    def n_equality(self) -> int:
        return 0 if self.A is None else int(self.A.shape[-2])

    @property
    def n_linear(self) -> int:
        """Rows of G."""
        return 0 if self.G is None else int(self.G.shape[-2])

    @property
    def n_quadratic(self) -> int:
        return 0 if self.quadratic_r is None else int(self.quadratic_r.shape[-1])

    def items(self) -> list[tuple[str, Matrix]]:
        """Return the fields that are present, with their names."""
        found: list[tuple[str, Matrix]] = []
        for name in DATA_FIELDS:
            value = getattr(self, name)
            if value is not None:
                found.append((name, value))
        return found

    def detached(self) -> QuadraticData:
        """Return the same numbers, cut off from the graph."""
        found: dict[str, Any] = {}
        for name, value in self.items():
            found[name] = value.detach()
        return QuadraticData(self.n, **found)

    def objective(self, x: Tensor) -> Tensor:
        """Return ½ xᵀPx + qᵀx. Shapes (B, n) -> (B,)."""
        value = x.new_zeros(x.shape[0])
        if self.P is not None:
            value = value + (x * matvec(self.P, x)).sum(-1) / 2
        if self.q is not None:
            value = value + (x * self.q).sum(-1)
        return value

    def gradient(self, x: Tensor) -> Tensor:
        """Return Px + q. Shapes (B, n) -> (B, n)."""
        value = torch.zeros_like(x) if self.P is None else matvec(self.P, x)
        return value if self.q is None else value + self.q

    def quadratic_rows(self, x: Tensor) -> Tensor:
        """Return ½ xᵀP_i x + q_iᵀx - r_i. Shapes (B, n) -> (B, k)."""
        if self.quadratic_P is None or self.quadratic_q is None or self.quadratic_r is None:
            return x.new_zeros(x.shape[0], 0)
        pattern = "bi,kij,bj->bk" if self.quadratic_P.ndim == 3 else "bi,bkij,bj->bk"
        curved = torch.einsum(pattern, x, self.quadratic_P, x)
        linear = (x.unsqueeze(-2) * self.quadratic_q).sum(-1)
        return curved / 2 + linear - self.quadratic_r

    def quadratic_jacobian(self, x: Tensor) -> Tensor:
        """Return the gradients of the quadratic rows. Shapes (B, n) -> (B, k, n)."""
        if self.quadratic_P is None or self.quadratic_q is None:
            return x.new_zeros(x.shape[0], 0, self.n)
        pattern = "kij,bj->bki" if self.quadratic_P.ndim == 3 else "bkij,bj->bki"
        return torch.einsum(pattern, self.quadratic_P, x) + self.quadratic_q


DATA_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(QuadraticData) if f.name != "n")

SAMPLE_DIMS = {
    "P": 2, "q": 1, "A": 2, "b": 1, "G": 2, "h": 1, "lower": 1, "upper": 1,
    "quadratic_P": 3, "quadratic_q": 2, "quadratic_r": 1,
}  # fmt: skip
"""Dimensions of one sample's value of each field."""

_ROWS = ("A", "b", "G", "h", "quadratic_P", "quadratic_q", "quadratic_r")
"""Fields that stack."""


def merge_data(n: int, parts: Sequence[QuadraticData]) -> QuadraticData:
    """Return the data whose feasible set is the intersection of the parts'.

    P and q may come from one part at most. Where two parts bound the same variable the tighter
    bound holds, and receives the gradient.
    """
    merged: dict[str, Tensor] = {}
    for name in ("P", "q"):
        for part in parts:
            value = getattr(part, name)
            if value is not None:
                merged[name] = value
    for name in _ROWS:
        dims = SAMPLE_DIMS[name]
        blocks = [to_dense(v) for part in parts if (v := getattr(part, name)) is not None]
        if blocks:
            merged[name] = concatenate(blocks, dim=-dims, sample_dims=dims)
    for name, tighter in (("lower", torch.gt), ("upper", torch.lt)):
        for part in parts:
            value = getattr(part, name)
            if value is None:
                continue
            held = merged.get(name)
            merged[name] = value if held is None else torch.where(tighter(value, held), value, held)
    return QuadraticData(n=n, **merged)
