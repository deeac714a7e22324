"""Anderson acceleration (type II) of a batch of fixed-point iterations, safeguarded per sample."""

from __future__ import annotations

import torch
from torch import Tensor

STRAY_LIMIT = 100.0
"""A residual this many times the smallest one so far makes a sample drop its acceleration."""


class Anderson:
    """v_{k+1} = G(v_k) - ΔG γ with γ minimising ‖f_k - ΔF γ‖₂, where f_k = G(v_k) - v_k.

    ΔF and ΔG hold the last m differences of f and G(v). The least-squares problems of all samples
    are solved in one batch: QR of the column-normalised ΔF, then a truncated SVD of the small R,
    since near convergence the columns are often dependent to working precision.

    Safeguard: a sample whose residual exceeds 100 times its smallest, is not finite, or has not
    fallen below its smallest for 10 + 2·m iterations drops its acceleration for good and goes on
    plainly from its best iterate. So acceleration converges wherever the plain iteration does.

    Source: Walker and Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal.
    49 (2011), sections 2 (the method) and 4 (conditioning).

    Args:
        start: v₀. Shape (B, s).
        window: m, between 1 and s.
    """

    def __init__(self, start: Tensor, window: int) -> None:
        batch, size = start.shape
        self._window = window
        self._patience = 10 + 2 * window
        self._count = 0
        self._on = torch.ones(batch, dtype=torch.bool, device=start.device)
        self._age = torch.zeros(batch, dtype=torch.int64, device=start.device)
        self._best_image = start
        self._image, self._gap = start, torch.zeros_like(start)
        self._images = start.new_zeros(batch, size, window)
        self._gaps = start.new_zeros(batch, size, window)

    def propose(
        self,
        image: Tensor,
        gap: Tensor,
        residual: Tensor,
        smallest: Tensor,
        improved: Tensor,
        active: Tensor,
        stray: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the next iterates and which samples are still to be given up as divergent.

        Args:
            image: G(v_k). Shape (B, s).
            gap: f_k. Shape (B, s).
            residual: ‖f_k‖₂. Shape (B,).
            smallest: The smallest so far. Shape (B,).
            improved: Whether ``residual`` is that. Shape (B,), bool.
            active: Samples still at work. Shape (B,), bool.
            stray: Samples that the plain iteration would give up. Shape (B,), bool.
        """
        self._age = torch.where(improved, torch.zeros_like(self._age), self._age + 1)
        self._best_image = torch.where(improved.unsqueeze(-1), image, self._best_image)
        bounded = residual.isfinite() & (residual <= STRAY_LIMIT * smallest)
        dropping = self._on & ~(bounded & (self._age <= self._patience))
        self._on = self._on & ~dropping

        working = (self._on & active).unsqueeze(-1)
        self._remember(image, gap, working)
        following = torch.where(dropping.unsqueeze(-1), self._best_image, image)
        following = torch.where(working, self._accelerated(image, gap), following)
        return following, stray & ~dropping

    def _remember(self, image: Tensor, gap: Tensor, working: Tensor) -> None:
        if self._count:
            column = (self._count - 1) % self._window
            self._images[:, :, column] = image - self._image
            # Rows out of work may hold NaN, which the SVD would refuse for the whole batch.
            self._gaps[:, :, column] = torch.where(working, gap - self._gap, torch.zeros_like(gap))
        self._image, self._gap = image, gap
        self._count += 1

    def _accelerated(self, image: Tensor, gap: Tensor) -> Tensor:
        filled = min(self._count - 1, self._window)
        if filled == 0:
            return image
        gaps = self._gaps[:, :, :filled]
        length = torch.linalg.vector_norm(gaps, dim=1, keepdim=True)
        length = torch.where(length > 0, length, torch.ones_like(length))
        q, r = torch.linalg.qr(gaps / length)
        left, sigma, right = torch.linalg.svd(r, full_matrices=False)
        # Differences shrink towards rounding error: directions below eps^(2/3) are noise.
        cut = torch.finfo(image.dtype).eps ** (2 / 3) * sigma[:, :1]
        inverse = torch.where((sigma > cut) & (sigma > 0), 1 / sigma, torch.zeros_like(sigma))
        weights = q.mT @ gap.unsqueeze(-1)
        weights = right.mT @ (inverse.unsqueeze(-1) * (left.mT @ weights))
        shift: Tensor = (self._images[:, :, :filled] @ (weights / length.mT)).squeeze(-1)
        return image - shift
