"""Samples of like size side by side: what a sample is computed with depends on itself alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CLASSES = 4
"""Sizes per dimension: a batch falls into two groups as a rule; a third costs more copies than its smaller
matrices save (n = 100, 70 rows, batch 64: 4 sizes are a tenth faster than 8)."""

_SMALLEST = 4
"""Sizes are multiples of at least this: smaller matrices cost their overhead, not their entries."""


_SMALL = 16
"""Up to this many variables and rows all are held, masked: sorting costs more than it saves."""


@dataclass(frozen=True)
class Group:
    """Samples whose systems are stored at one size.

    Attributes:
        samples: Their indices in the batch, (b,) int64; None for the whole batch.
        free, rows: Which variables and rows they hold, padded; None for all, in order. Shapes
            (b, f) and (b, k), int64.
        free_there, rows_there: Where these are no padding. Shapes (b, f) and (b, k), bool; None
            where nothing is padded.
    """

    samples: Tensor | None
    free: Tensor | None
    rows: Tensor | None
    free_there: Tensor | None
    rows_there: Tensor | None

    def take(self, value: Tensor) -> Tensor:
        """Return the group's samples of a batch (B, …)."""
        return value if self.samples is None else value[self.samples]

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write the group's samples into a batch (B, …)."""
        if self.samples is None:
            whole.copy_(part)
        else:
            whole[self.samples] = part


def size_class(count: Tensor, total: int) -> Tensor:
    """Return counts rounded up to one of few sizes, at most ``total``."""
    stride = max(_SMALLEST, -(-total // _CLASSES))
    return ((count + stride - 1).div(stride, rounding_mode="floor") * stride).clamp_max(total)


def positions(there: Tensor, size: int) -> Tensor:
    """Return where a mask (b, t) holds, in order and padded to ``size``. Shape (b, size), int64."""
    # A stable sort keeps the order of the true entries and puts them first.
    return torch.argsort(~there, dim=-1, stable=True)[:, :size]


def groups_of(free: Tensor | None, rows: Tensor) -> list[Group]:
    """Sort samples into groups by how many variables are free and how many rows are active.

    Args:
        free: (B, n) bool; None where all are.
        rows: (B, k) bool.
    """
    k = rows.shape[-1]
    if k <= _SMALL and (free is None or free.shape[-1] <= _SMALL):
        return [Group(None, None, None, free, rows)]
    wanted = size_class(rows.sum(-1), k) if k else rows.new_zeros(rows.shape[0], dtype=torch.long)
    if free is None:
        key = wanted
    else:
        n = free.shape[-1]
        sizes = size_class(free.sum(-1), n)
        key = sizes * (k + 1) + wanted
    keys = sorted(set(key.tolist()))
    if len(keys) == 1:
        return [_group(None, free, rows, keys[0])]
    return [_group(torch.nonzero(key == one).flatten(), free, rows, one) for one in keys]


def _group(samples: Tensor | None, free: Tensor | None, rows: Tensor, key: int) -> Group:
    size_free, size_rows = divmod(key, rows.shape[-1] + 1)
    if samples is not None:
        free = None if free is None else free[samples]
        rows = rows[samples]
    where_free, free_there = (None, None) if free is None else _held(free, size_free)
    where_rows, rows_there = _held(rows, size_rows)
    return Group(samples, where_free, where_rows, free_there, rows_there)


def _held(mask: Tensor, size: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the positions held and where they are no padding; None for all, and for none padded."""
    if size == mask.shape[-1]:
        return None, None if bool(mask.all()) else mask
    where = positions(mask, size)
    return where, mask.gather(-1, where)
