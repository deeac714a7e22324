"""Eigenvalues of symmetric matrices: the largest by power iteration, and the one test of definiteness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .products import matvec
from .sparse import Matrix, SparseMatrix


def largest_eigenvalue(matrix: Matrix, iterations: int = 100, rtol: float = 1e-3) -> Tensor:
    """Estimate ‖M‖₂ of symmetric M by power iteration, without gradient.

    The start vector is fixed, so results repeat. Shape () for shared M, (B,) otherwise.
    """
    with torch.no_grad():
        values = matrix.values if isinstance(matrix, SparseMatrix) else matrix
        n = matrix.shape[-1]
        shared = not matrix.batched if isinstance(matrix, SparseMatrix) else matrix.ndim == 2
        rows = 1 if shared else values.shape[0]
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(n, generator=generator, dtype=torch.float64)
        vector = start.to(dtype=values.dtype, device=values.device).repeat(rows, 1)
        norm = vector.new_zeros(rows)
        active = torch.ones_like(norm, dtype=torch.bool)
        for _ in range(iterations):
            length = vector.norm(dim=-1, keepdim=True)
            vector = vector / torch.where(length > 0, length, torch.ones_like(length))
            vector = matvec(matrix, vector)
            # A sample stops by itself: its step must not depend on how long its neighbours take.
            previous, norm = norm, torch.where(active, vector.norm(dim=-1), norm)
            active = active & ((norm - previous).abs() > rtol * norm)
            if not bool(active.any()):
                break
        return norm[0] if shared else norm


def operator_norm(
    product: Callable[[Tensor], Tensor],
    like: Tensor,
    *,
    iterations: int = 100,
    rtol: float = 1e-3,
) -> Tensor:
    """Estimate ‖M‖₂ of symmetric M per sample by power iteration, without gradient. Shape (B,).

    The estimate is from below. The start vector is fixed, and a sample stops by itself, so that its
    number depends neither on chance nor on its neighbours.

    Args:
        product: v -> Mv, (B, k) -> (B, k), rows independent of each other.
        like: Any tensor of the shape, dtype and device of v.
        iterations: Largest number of products.
        rtol: Relative change between two products at which a sample stops.
    """
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(like.shape[-1], generator=generator, dtype=torch.float64)
        vector = start.to(dtype=like.dtype, device=like.device).expand_as(like)
        norm = like.new_zeros(like.shape[0])
        active = torch.ones_like(norm, dtype=torch.bool)
        for _ in range(iterations):
            length = vector.norm(dim=-1, keepdim=True)
            vector = vector / torch.where(length > 0, length, torch.ones_like(length))
            vector = product(vector)
            previous, norm = norm, torch.where(active, vector.norm(dim=-1), norm)
            active = active & ((norm - previous).abs() > rtol * norm)
            if not bool(active.any()):
                break
        return norm


def is_positive_semidefinite(matrix: Tensor) -> Tensor:
    """Return whether the symmetric part is positive semidefinite up to rounding. Shape (*batch,), bool."""
    symmetric = (matrix + matrix.mT) / 2
    values = torch.linalg.eigvalsh(symmetric.detach())
    size = values.abs().amax(-1)
    tolerance = 100 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps
    result: Tensor = values.amin(-1) >= -tolerance * size
    return result
