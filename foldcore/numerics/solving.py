"""Products and solves over batches in which any operand may be shared by all samples."""

from __future__ import annotations

import torch
from torch import Tensor

_LU_BATCH_LIMIT = 128
"""Above this size oneMKL's batched LU can hang on the CPU with 2 or more threads (torch 2.13)."""


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
    probe = _probe(matrix)
    solution, probed = _solve_two(matrix, right, probe)
    singular = _is_singular(matrix, probed) | ~torch.isfinite(solution.detach()).all(-1)
    if bool(singular.any()):
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        mended = torch.where(singular[:, None, None], identity, matrix)
        zeroed = torch.where(singular[:, None], torch.zeros_like(right), right)
        solution, _ = _solve_two(mended, zeroed, probe)
    return solution, singular


def factor_square(matrix: Tensor) -> Factorisation:
    """Factor square matrices once, for many right-hand sides; see :class:`Factorisation`.

    Args:
        matrix: (N, N), shared by the batch and factored once, or (B, N, N).
    """
    return Factorisation(matrix)


class Factorisation:
    """LU factors of square matrices, differentiable to any order through every solve.

    Invariant: ``solve(r)`` is M⁻¹r, with the gradients of both M and r. A sample that is singular to
    working precision, by the test of :func:`solve_checked`, harms itself alone: it gets zeros
    without gradient.

    Attributes:
        singular: Shape (), bool, for a shared matrix, else (B,).

    Args:
        matrix: (N, N) or (B, N, N).
    """

    def __init__(self, matrix: Tensor) -> None:
        self._one_by_one = matrix.ndim == 3 and _batched_lu_may_hang(matrix)
        self._factors = self._factor(matrix)
        with torch.no_grad():
            shared = matrix.ndim == 2
            probe = _probe(matrix).expand(1 if shared else matrix.shape[0], -1)
            probed = self._solve(probe)
        self.singular = _is_singular(matrix, probed[0] if shared else probed)
        self._whole = not bool(self.singular.any())
        if not self._whole:
            identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
            self._factors = self._factor(
                torch.where(self.singular[..., None, None], identity, matrix)
            )

    def _factor(self, matrix: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return LU and pivots of the whole batch, or of each sample in turn."""
        matrices = matrix.unbind() if self._one_by_one else (matrix,)
        return [torch.linalg.lu_factor_ex(one)[:2] for one in matrices]

    def _solve(self, right: Tensor) -> Tensor:
        columns = right.mT if self._factors[0][0].ndim == 2 else right.unsqueeze(-1)
        if self._one_by_one:
            each = zip(self._factors, right.unbind(), strict=True)
            solved = [torch.linalg.lu_solve(*pair, one.unsqueeze(-1)) for pair, one in each]
            return torch.stack(solved).squeeze(-1)
        solution: Tensor = torch.linalg.lu_solve(*self._factors[0], columns)
        return solution.squeeze(-1) if solution.ndim == 3 else solution.mT

    def solve(self, right: Tensor) -> Tensor:
        """Return M⁻¹r. Shapes (B, N) -> (B, N)."""
        if not self._whole:
            right = torch.where(self.singular[..., None], torch.zeros_like(right), right)
        return self._solve(right)


def _probe(matrix: Tensor) -> Tensor:
    """Return the fixed right-hand side (N,) that singular matrices are told by.

    A null vector orthogonal to it stays unseen. Entries of equal size would be orthogonal to the ones,
    the null vector of every graph's Laplacian.
    """
    n = matrix.shape[-1]
    probe = torch.linspace(0.5, 1.5, n, dtype=matrix.dtype, device=matrix.device)
    return probe * (1 - 2 * (torch.arange(n, device=matrix.device) % 2))


def _is_singular(matrix: Tensor, probed: Tensor) -> Tensor:
    """Tell singular matrices by their answer M⁻¹w to the probe. Shapes (…, N, N), (…, N) -> (…)."""
    with torch.no_grad():
        if not matrix.shape[-1]:
            return torch.zeros(probed.shape[:-1], dtype=torch.bool, device=matrix.device)
        # At a hundredth of 1/eps LU's answer has two correct digits left; beyond, none is promised.
        condition = matrix.detach().abs().sum(-1).amax(-1) * probed.abs().amax(-1)
        finite = torch.isfinite(probed).all(-1)
        return ~finite | ~(condition < 0.01 / torch.finfo(matrix.dtype).eps)


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
