"""The largest eigenvalue of symmetric matrices, by one power iteration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .products import matvec
from .sparse import Matrix, SparseMatrix


def largest_eigenvalue(matrix: Matrix, iterations: int = 100, rtol: float = 1e-3) -> Tensor:
    """Estimate ‖M‖₂ of symmetric M as :func:`operator_norm` does.

    Shape () for shared M, (B,) otherwise.
    """
    values = matrix.values if isinstance(matrix, SparseMatrix) else matrix
    shared = not matrix.batched if isinstance(matrix, SparseMatrix) else matrix.ndim == 2
    like = values.new_empty(1 if shared else values.shape[0], matrix.shape[-1])
    norm = operator_norm(partial(matvec, matrix), like, iterations=iterations, rtol=rtol)
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

    Source: Golub and Van Loan, Matrix Computations (2013), section 7.3.1.

    Args:
        product: v -> Mv, (B, k) -> (B, k), rows independent of each other.
        like: Any tensor of the shape, dtype and device of v.
        iterations: Largest number of products.
        rtol: Relative change between two products at which a sample stops.
    """
    # Differs from the textbook in what it returns: ‖Mv‖ for the unit vector v instead of the Rayleigh
    # quotient vᵀMv. ‖Mv‖ needs no sign (of eigenvalues λ and -λ the quotient tells neither) and stays a
    # bound from below. The default rtol of 1e-3 is that of a step size, for which callers leave a margin.
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        # Drawn in float64 on the CPU: the same start, rounded, in every dtype and on every device.
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
