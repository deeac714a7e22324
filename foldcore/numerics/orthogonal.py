"""Orthogonality: Gram-Schmidt for batches, as in Arnoldi's method, and rows that depend on others."""

from __future__ import annotations

import torch
from torch import Tensor

_DEPENDENT = 100.0
"""Multiple of n·epsilon below which a row's part outside the others' span counts as zero."""


def orthogonalise(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of a vector orthogonal to a basis, and its coefficients in the basis.

    Classical Gram-Schmidt, twice: orthogonal to rounding error, in matrix products of the batch.

    Source: Giraud, Langou, Rozložník, van den Eshof, Rounding error analysis of the classical
    Gram-Schmidt orthogonalization process, Numer. Math. 101 (2005): twice is enough.

    Args:
        vector: Shape (B, s).
        basis: Orthonormal rows. Shape (B, k, s).
    """
    column = vector.new_zeros(basis.shape[:2])
    for _ in range(2):
        part = torch.bmm(basis, vector.unsqueeze(-1))
        vector = vector - torch.bmm(basis.mT, part).squeeze(-1)
        column = column + part.squeeze(-1)
    return vector, column


def dependent_columns(triangle: Tensor) -> Tensor:
    """Return where the R of a QR factorisation shows a column that depends on those before it.

    Args:
        triangle: R. Shape (..., p, p).

    Returns:
        Where a diagonal entry vanishes beside its column. Shape (..., p), bool.
    """
    part = triangle.diagonal(dim1=-2, dim2=-1).abs()
    limit = _DEPENDENT * triangle.shape[-1] * torch.finfo(triangle.dtype).eps
    dependent: Tensor = ~(part > limit * triangle.norm(dim=-2))
    return dependent


def has_independent_rows(matrix: Tensor) -> bool:
    """Whether no row of a matrix (p, n) depends linearly on the others, up to rounding."""
    if matrix.shape[-2] > matrix.shape[-1]:
        return False
    return not bool(dependent_columns(torch.linalg.qr(matrix.detach().mT)[1]).any())
