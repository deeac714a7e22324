"""Which rows and bounds without a multiplier say nothing that the strictly active ones do not say."""

from __future__ import annotations

import torch
from torch import Tensor

from .operator import Operator

_IN_SPAN = 1e-9
"""Distance of a unit row from the span of others up to which it counts as one of their combinations:
well above what an SVD loses, well below what any two rows of data differ by on purpose."""


def dependent(operator: Operator, rows: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Return the candidates whose gradients are combinations of the active ones.

    A row of zero slack and zero multiplier makes a kink, but not where it follows from strictly
    active rows: then it holds wherever they do.

    Args:
        operator: Its active rows and fixed variables are the strictly active ones.
        rows, bounds: Candidates, (B, k) and (B, n) bool, none of them active.

    Returns:
        Masks of the same shapes.
    """
    found_rows, found_bounds = torch.zeros_like(rows), torch.zeros_like(bounds)
    asked = torch.nonzero(rows.any(-1) | bounds.any(-1)).flatten()
    if not asked.numel():
        return found_rows, found_bounds
    part = operator.take(asked)
    free = torch.ones_like(bounds[asked]) if part.fixed is None else ~part.fixed
    all_rows = part.dense_rows.expand(asked.numel(), -1, -1)
    length = torch.linalg.vector_norm(all_rows, dim=-1, keepdim=True)
    unit = all_rows / torch.where(length > 0, length, 1.0) * free.unsqueeze(-2)
    basis = _row_space(unit * part.active.unsqueeze(-1))
    # What is left of a row outside the span; fixed variables' columns are spanned by their bounds.
    left = unit - (unit @ basis.mT) @ basis
    found_rows[asked] = rows[asked] & (torch.linalg.vector_norm(left, dim=-1) <= _IN_SPAN)
    height = 1 - basis.square().sum(-2)
    found_bounds[asked] = bounds[asked] & (height <= _IN_SPAN) & free
    return found_rows, found_bounds


def _row_space(rows: Tensor) -> Tensor:
    """Return an orthonormal basis of each row space, zero rows beyond it. (b, k, n) -> (b, r, n)."""
    if not rows.shape[-2]:
        return rows
    _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
    floor = 10 * max(rows.shape[-2:]) * torch.finfo(rows.dtype).eps
    kept = sizes > floor * sizes.amax(-1, keepdim=True)
    held: Tensor = basis * kept.unsqueeze(-1)
    return held
