"""Products and solves over batches in which any operand may be shared by all samples."""

from __future__ import annotations

import torch
from torch import Tensor

from .sparse import Matrix, SparseMatrix

_LU_BATCH_LIMIT = 128
"""Above this size oneMKL's batched LU can hang on the CPU with 2 or more threads (torch 2.13)."""


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


def solve_square(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve M y = r per sample by LU, differentiably, without oneMKL's hang on large batches.

    A singular sample gives non-finite numbers for itself alone: callers check.

    Args:
        matrix: (N, N), shared and factored once, or (B, N, N).
        right: (B, N).

    Returns:
        y. Shape (B, N).
    """
    if matrix.ndim == 2:
        solution, _ = torch.linalg.solve_ex(matrix, right.mT)
        shared: Tensor = solution.mT
        return shared
    if _batched_lu_may_hang(matrix):
        rows = [
            torch.linalg.solve_ex(matrix[i], right[i].unsqueeze(-1))[0].squeeze(-1)
            for i in range(matrix.shape[0])
        ]
        return torch.stack(rows)
    solution, _ = torch.linalg.solve_ex(matrix, right.unsqueeze(-1))
    answer: Tensor = solution.squeeze(-1)
    return answer


def solve_checked(matrix: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Solve M y = r per sample and tell which samples are singular to working precision.

    A second, fixed right-hand side w rides along in the same factorisation: ‖M‖·‖M⁻¹w‖/‖w‖ is a lower
    bound of the condition number that a singular matrix drives to 1/eps. Singular samples get
    zeros without gradient.

    Args:
        matrix: (N, N) or (B, N, N).
        right: (B, N).

    Returns:
        y, (B, N), and the singular samples, (B,) bool.
    """
    probe = torch.linspace(0.5, 1.5, matrix.shape[-1], dtype=right.dtype, device=right.device)
    probe = probe * (1 - 2 * (torch.arange(matrix.shape[-1], device=right.device) % 2))
    with torch.no_grad():
        size = matrix.detach().abs().sum(-1).amax(-1) if matrix.shape[-1] else right.new_zeros(())
    solution, probed = _solve_two(matrix, right, probe)
    with torch.no_grad():
        condition = (
            size * probed.abs().amax(-1) if matrix.shape[-1] else right.new_zeros(len(right))
        )
        finite = torch.isfinite(solution).all(-1) & torch.isfinite(probed).all(-1)
        singular = ~finite | ~(condition < 0.01 / torch.finfo(right.dtype).eps)
    if bool(singular.any()):
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        mended = torch.where(singular[:, None, None], identity, matrix)
        zeroed = torch.where(singular[:, None], torch.zeros_like(right), right)
        solution, _ = _solve_two(mended, zeroed, probe)
    return solution, singular


def _solve_two(matrix: Tensor, right: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    batch = right.shape[0]
    if matrix.ndim == 2:
        both = torch.cat([right.mT, probe.unsqueeze(-1)], dim=-1)
        solved, _ = torch.linalg.solve_ex(matrix, both)
        return solved[:, :batch].mT, solved[:, batch:].mT.detach().expand(batch, -1)
    both = torch.stack([right, probe.expand_as(right)], dim=-1)
    if _batched_lu_may_hang(matrix):
        solved = torch.stack([torch.linalg.solve_ex(matrix[i], both[i])[0] for i in range(batch)])
    else:
        solved, _ = torch.linalg.solve_ex(matrix, both)
    return solved[..., 0], solved[..., 1].detach()


def _batched_lu_may_hang(matrix: Tensor) -> bool:
    return (
        matrix.device.type == "cpu"
        and matrix.shape[0] > 1
        and matrix.shape[-1] > _LU_BATCH_LIMIT
        and torch.get_num_threads() > 1
    )


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
        for _ in range(iterations):
            length = vector.norm(dim=-1, keepdim=True)
            vector = vector / torch.where(length > 0, length, torch.ones_like(length))
            vector = matvec(matrix, vector)
            previous, norm = norm, vector.norm(dim=-1)
            if bool(((norm - previous).abs() <= rtol * norm).all()):
                break
        return norm[0] if shared else norm
