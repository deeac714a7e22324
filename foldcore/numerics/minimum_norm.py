"""Singular square systems: the solution of least norm, and what its null space leaves open."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MinimumNorm:
    """Least-squares solutions of least norm, per sample.

    Attributes:
        solution: Shape (B, N). Zero for samples whose matrix is not finite.
        rank: Of each matrix. Shape (B,), int64; -1 for samples whose matrix is not finite.
        null_vector: A random unit vector of the matrix's null space; zero where that is trivial.
            Shape (B, N).
    """

    solution: Tensor
    rank: Tensor
    null_vector: Tensor


def minimum_norm(matrix: Tensor, right: Tensor) -> MinimumNorm:
    """Return the y of least norm among those that minimise ‖M y - r‖₂, by SVD, without gradient.

    A singular value counts as 0 up to min(100·N·eps, √eps) times the largest: every matrix that
    :func:`foldcore.solve_checked` takes for singular is then rank-deficient here. Whether r lies
    in the range is for the caller to measure. The random vector repeats from call to call.

    Source: Golub and Van Loan, Matrix Computations (2013), section 5.5.

    Args:
        matrix: (N, N), shared and decomposed once, or (B, N, N).
        right: (B, N).
    """
    with torch.no_grad():
        size = matrix.shape[-1]
        matrices = matrix.reshape(-1, size, size)
        finite = matrices.isfinite().flatten(1).all(-1)
        # An SVD refuses NaN for the whole batch.
        clean = torch.where(finite[:, None, None], matrices, torch.zeros_like(matrices))
        left, sigma, right_t = torch.linalg.svd(clean)
        eps = torch.finfo(matrix.dtype).eps
        kept = sigma > min(100 * size * eps, eps**0.5) * sigma[:, :1]
        inverse = torch.where(kept, 1 / sigma, torch.zeros_like(sigma))
        coefficients = (left.mT @ right.unsqueeze(-1)).squeeze(-1)
        solution = (right_t.mT @ (inverse * coefficients).unsqueeze(-1)).squeeze(-1)

        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(size, generator=generator, dtype=torch.float64)
        weights = weights.to(dtype=matrix.dtype, device=matrix.device) * (~kept & finite[:, None])
        weights = weights / weights.norm(dim=-1, keepdim=True).clamp_min(eps)
        null_vector = (right_t.mT @ weights.unsqueeze(-1)).squeeze(-1)
        rank = torch.where(finite, kept.sum(-1), -1)
        batch = right.shape[0]
        return MinimumNorm(solution, rank.expand(batch), null_vector.expand(batch, -1))
