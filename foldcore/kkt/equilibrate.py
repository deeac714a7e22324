"""Powers of two that bring the rows of symmetric matrices to one size: exact, digits do not change."""

from __future__ import annotations

import torch
from torch import Tensor

_PASSES = 6
"""Ruiz converges by a factor of two in the exponent per pass: 1e12 is within a factor of 2 after 6."""


def equilibrate(matrix: Tensor) -> Tensor:
    """Return d, (b, N), such that every row of DKD has its largest entry near 1; 1 for zero rows.

    Source: Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices (2001),
    with each factor rounded to a power of two.
    """
    size = matrix.abs()
    d = matrix.new_ones(matrix.shape[:-1])
    for _ in range(_PASSES):
        largest = (size * d.unsqueeze(-2)).amax(-1) * d if size.shape[-1] else d
        usable = (largest > 0) & torch.isfinite(largest)
        half = torch.where(usable, largest, 1.0).log2() / -2
        d = d * half.round().exp2()
    return d
