"""Sparse matrices with one pattern per batch; their gradients live on the pattern only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A sparse matrix with its values bound: (nnz,) shared by the batch, or (B, nnz)."""

    rows: Tensor
    cols: Tensor
    shape: tuple[int, int]
    values: Tensor

    @property
    def batched(self) -> bool:
        return self.values.ndim == 2

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def matvec(self, x: Tensor) -> Tensor:
        """Return M x for each row of x. Shapes (B, columns) -> (B, rows)."""
        products = x[:, self.cols] * self.values
        out = x.new_zeros(x.shape[0], self.shape[0])
        return out.index_add(1, self.rows, products)

    @property
    def is_diagonal(self) -> bool:
        """Whether the pattern holds diagonal entries alone."""
        return self.shape[0] == self.shape[1] and bool((self.rows == self.cols).all())

    def row_lengths(self) -> Tensor:
        """Return the Euclidean length of each row; entries of equal position count one by one."""
        squares = self.values.square()
        out = squares.new_zeros(*squares.shape[:-1], self.shape[0])
        return out.index_add(-1, self.rows, squares).sqrt()

    def transpose(self) -> SparseMatrix:
        return SparseMatrix(self.cols, self.rows, (self.shape[1], self.shape[0]), self.values)

    def to_dense(self) -> Tensor:
        """Return (rows, columns) or (B, rows, columns)."""
        flat = self.rows * self.shape[1] + self.cols
        lead = self.values.shape[:-1]
        out = self.values.new_zeros(*lead, self.shape[0] * self.shape[1])
        return out.index_add(-1, flat, self.values).reshape(*lead, *self.shape)

    def symmetrised(self) -> SparseMatrix:
        """Return ½(M + Mᵀ); its pattern is the union, entries of equal position add up."""
        return SparseMatrix(
            torch.cat([self.rows, self.cols]),
            torch.cat([self.cols, self.rows]),
            self.shape,
            torch.cat([self.values, self.values], dim=-1) / 2,
        )

    def detach(self) -> SparseMatrix:
        return SparseMatrix(self.rows, self.cols, self.shape, self.values.detach())


Matrix = Tensor | SparseMatrix
