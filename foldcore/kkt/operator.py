"""The matrix of a solution's linear system, as products: nothing is assembled."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..numerics.products import matvec, rmatvec
from ..numerics.sparse import Matrix, SparseMatrix


class Operator:
    """K = [[H, CᵀA, F], [AC, I - A, 0], [F, 0, I - F]], symmetric; A and F are 0/1 diagonals.

    The unknowns are x (n), one multiplier per row of C (k) and one per variable (n), that of x = bound
    where it is fixed. Rows that are not active and variables that are not fixed have the equation
    "multiplier = right-hand side", so that all samples share one shape.

    Args:
        hessian: H: (n, n) or (B, n, n); its diagonal, (n,) or (B, n), where ``diagonal``. Sparse
            only where C is.
        rows: C: (k, n) or (B, k, n), or sparse.
        active: A. Shape (B, k), bool.
        fixed: F. Shape (B, n), bool; None where no variable has a bound, and the last block is none.
        diagonal: Whether H is diagonal.
        all_active: Whether the problem has no rows but equalities, and no bounds: A = I for every
            sample that there could be.

    Attributes:
        n, k, batch: The sizes.
        size: Number of unknowns.
        shared: Whether all samples have the same H and C.
        dense_hessian, dense_rows: H and C as the dense factors take them: where C is not sparse.
        sparse: Whether C, and H unless it is a diagonal, are sparse.
    """

    def __init__(
        self,
        hessian: Matrix,
        rows: Matrix,
        active: Tensor,
        fixed: Tensor | None,
        diagonal: bool = False,
        all_active: bool = False,
    ) -> None:
        self.hessian, self.rows, self.active, self.fixed = hessian, rows, active, fixed
        self.dense_hessian, self.dense_rows = cast(Tensor, hessian), cast(Tensor, rows)
        self.diagonal, self.all_active = diagonal, all_active
        self.batch = active.shape[0]
        self.k, self.n = rows.shape[-2:]
        self.size = self.n + self.k + (0 if fixed is None else self.n)
        self.sparse = isinstance(rows, SparseMatrix)
        if isinstance(rows, Tensor) and isinstance(hessian, Tensor):
            self.shared = rows.ndim == 2 and hessian.ndim == (1 if diagonal else 2)
        else:
            self.shared = not _batched(rows, 2) and not _batched(hessian, 1 if diagonal else 2)

    def split(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the parts of a vector (B, size): (B, n), (B, k), and (B, n) or None."""
        n, k = self.n, self.k
        tail = None if self.fixed is None else vector[:, n + k :]
        return vector[:, :n], vector[:, n : n + k], tail

    def curve(self, x: Tensor) -> Tensor:
        """Return Hx. Shapes (B, n) -> (B, n)."""
        hessian = self.hessian
        if self.diagonal and isinstance(hessian, Tensor):
            return hessian * x
        return matvec(hessian, x)

    def product(self, vector: Tensor) -> Tensor:
        """Return Ky. Shapes (B, size) -> (B, size)."""
        x, w, bound = self.split(vector)
        top = self.curve(x)
        if self.k:
            held = w if self.all_active else torch.where(self.active, w, 0.0)
            top = top + rmatvec(self.rows, held)
            image = matvec(self.rows, x)
            w = image if self.all_active else torch.where(self.active, image, w)
        if self.fixed is None or bound is None:
            return torch.cat([top, w], -1) if self.k else top
        top = top + torch.where(self.fixed, bound, 0.0)
        return torch.cat([top, w, torch.where(self.fixed, x, bound)], -1)

    def magnitude(self, vector: Tensor) -> Tensor:
        """Return the largest of Hx and Cᵀw, before they cancel. Shapes (B, size) -> (B,)."""
        x, w, _ = self.split(vector)
        size = self.curve(x).abs().amax(-1) if self.n else vector.new_zeros(vector.shape[0])
        if self.k:
            pull = rmatvec(self.rows, torch.where(self.active, w, 0.0))
            size = size.maximum(pull.abs().amax(-1))
        return size

    def take(self, samples: Tensor) -> Operator:
        """Return the operator of some samples, (b,) int64."""
        return Operator(
            _taken(self.hessian, samples, 1 if self.diagonal else 2),
            _taken(self.rows, samples, 2),
            self.active[samples],
            None if self.fixed is None else self.fixed[samples],
            self.diagonal,
            self.all_active,
        )


def _batched(matrix: Matrix, sample_dims: int) -> bool:
    if isinstance(matrix, SparseMatrix):
        return matrix.batched
    return matrix.ndim > sample_dims


def _taken(matrix: Matrix, samples: Tensor, sample_dims: int) -> Matrix:
    if not _batched(matrix, sample_dims):
        return matrix
    if isinstance(matrix, SparseMatrix):
        return SparseMatrix(matrix.rows, matrix.cols, matrix.shape, matrix.values[samples])
    return matrix[samples]
