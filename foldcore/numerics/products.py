"""Products over batches in which any operand may be shared by all samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .sparse import Matrix, SparseMatrix


def matvec(matrix: Matrix, x: Tensor) -> Tensor:
    """Return M x per sample: (m, n) or (B, m, n) times (B, n) -> (B, m). Shared M is not expanded."""
    if isinstance(matrix, SparseMatrix):
        return matrix.matvec(x)
    if matrix.ndim == 2:
        return x @ matrix.mT
    return torch.bmm(matrix, x.unsqueeze(-1)).squeeze(-1)


def rmatvec(matrix: Matrix, y: Tensor) -> Tensor:
    """Return Mᵀ y per sample: (m, n) or (B, m, n) times (B, m) -> (B, n)."""
    if isinstance(matrix, SparseMatrix):
        return matrix.transpose().matvec(y)
    if matrix.ndim == 2:
        return y @ matrix
    return torch.bmm(matrix.mT, y.unsqueeze(-1)).squeeze(-1)


def to_dense(matrix: Matrix) -> Tensor:
    """Return a dense tensor, (m, n) or (B, m, n)."""
    return matrix.to_dense() if isinstance(matrix, SparseMatrix) else matrix


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
