"""Join quadratic data of several sources: rows under each other, bounds intersected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..numerics.solving import to_dense
from .data import QuadraticData

_ROWS = {
    "A": 2, "b": 1, "G": 2, "h": 1, "quadratic_P": 3, "quadratic_q": 2, "quadratic_r": 1,
}  # fmt: skip
"""Fields that stack, with the number of dimensions of one sample's value."""


def merge_data(n: int, parts: Sequence[QuadraticData]) -> QuadraticData:
    """Return the data whose feasible set is the intersection of the parts'.

    P and q may come from one part at most. Where two parts bound the same variable the tighter
    bound holds, and receives the gradient.
    """
    merged: dict[str, Tensor] = {}
    for field in ("P", "q"):
        for part in parts:
            value = getattr(part, field)
            if value is not None:
                merged[field] = value
    for field, dims in _ROWS.items():
        blocks = [to_dense(v) for part in parts if (v := getattr(part, field)) is not None]
        if blocks:
            merged[field] = concatenate(blocks, dim=-dims, sample_dims=dims)
    for field, tighter in (("lower", torch.gt), ("upper", torch.lt)):
        for part in parts:
            value = getattr(part, field)
            if value is None:
                continue
            held = merged.get(field)
            merged[field] = (
                value if held is None else torch.where(tighter(value, held), value, held)
            )
    return QuadraticData(n=n, **merged)


def concatenate(blocks: Sequence[Tensor], dim: int, sample_dims: int) -> Tensor:
    """Concatenate blocks of which some are shared by the batch and some are not.

    Only where both kinds meet is the shared one repeated for each sample.
    """
    if len(blocks) == 1:
        return blocks[0]
    batch = next((b.shape[0] for b in blocks if b.ndim > sample_dims), None)
    if batch is not None:
        blocks = [b if b.ndim > sample_dims else b.expand(batch, *b.shape) for b in blocks]
    return torch.cat(list(blocks), dim=dim)
