"""Gram-Schmidt for batches: what Arnoldi's method is made of."""

from __future__ import annotations

import torch
from torch import Tensor


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
