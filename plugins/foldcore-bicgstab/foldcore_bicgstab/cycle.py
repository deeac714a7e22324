"""One run of BiCGSTAB for a batch, from a residual to convergence or breakdown, under a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore.adjoints import KrylovCycle
from foldcore.interfaces import FixedPointOperator

BREAKDOWN = 100.0
"""In machine epsilons: the cosine of two vectors up to which their inner product counts as 0."""


class BiCGSTABRuns:
    """Runs of BiCGSTAB that differ in their shadow vector.

    Invariant: the first run takes the residual for its shadow, which makes the least products
    where nothing breaks down. Each later one takes a fixed random vector of its own: an inner
    product that vanished with one shadow does not with another. All samples that are at work have
    made the same number of runs, so that none depends on its neighbours.

    Source: van der Vorst, Bi-CGSTAB: a fast and smoothly converging variant of Bi-CG for the
    solution of nonsymmetric linear systems, SIAM J. Sci. Stat. Comput. 13 (1992).

    Args:
        operator: Φ.
        tolerance: Of the recursive residual. Shape (B,).
    """

    def __init__(self, operator: FixedPointOperator, tolerance: Tensor) -> None:
        self._operator, self._tolerance = operator, tolerance
        self._runs = 0

    def _shadow(self, residual: Tensor) -> Tensor:
        self._runs += 1
        if self._runs == 1:
            return residual
        generator = torch.Generator().manual_seed(self._runs)
        drawn = torch.randn(residual.shape[-1], generator=generator, dtype=torch.float64)
        return drawn.to(dtype=residual.dtype, device=residual.device).expand_as(residual)

    def _apply(self, vector: Tensor) -> Tensor:
        return vector - self._operator.vjp(vector)

    def __call__(
        self, residual: Tensor, norm: Tensor, active: Tensor, budget: Tensor
    ) -> KrylovCycle:
        """See :data:`foldcore.KrylovMethod`. The best iterate by the recursion is kept."""
        zeros = torch.zeros_like(residual)
        residual = torch.where(active.unsqueeze(-1), residual, zeros)
        shadow = self._shadow(residual)
        correction, best, smallest = zeros, zeros, norm
        direction, rho = residual, (shadow * residual).sum(-1)
        products = torch.zeros_like(budget)
        running = active & _independent(rho, shadow, residual)
        while bool(running.any()):
            image = self._apply(torch.where(running.unsqueeze(-1), direction, zeros))
            products = products + running
            slope = (shadow * image).sum(-1)
            running = running & _independent(slope, shadow, image)
            alpha = torch.where(running, rho / slope, 0.0)
            half = residual - alpha.unsqueeze(-1) * image
            halved = torch.linalg.vector_norm(half, dim=-1)
            correction = correction + alpha.unsqueeze(-1) * torch.where(
                running.unsqueeze(-1), direction, zeros
            )
            best, smallest = _better(best, smallest, correction, halved, running)
            running = running & halved.isfinite() & (halved > self._tolerance)

            image_2 = self._apply(torch.where(running.unsqueeze(-1), half, zeros))
            products = products + running
            cross, square = (image_2 * half).sum(-1), (image_2 * image_2).sum(-1)
            running = running & _independent(cross, image_2, half)
            omega = torch.where(running, cross / square, 0.0)
            correction = correction + omega.unsqueeze(-1) * torch.where(
                running.unsqueeze(-1), half, zeros
            )
            residual = half - omega.unsqueeze(-1) * image_2
            remaining = torch.linalg.vector_norm(residual, dim=-1)
            best, smallest = _better(best, smallest, correction, remaining, running)
            running = running & remaining.isfinite() & (remaining > self._tolerance)
            running = running & (products + 2 <= budget)

            previous, rho = rho, (shadow * residual).sum(-1)
            running = running & _independent(rho, shadow, residual)
            beta = torch.where(running, (rho / previous) * (alpha / omega), 0.0).unsqueeze(-1)
            direction = residual + beta * (direction - omega.unsqueeze(-1) * image)
        return KrylovCycle(best, products, torch.zeros_like(active))


def _independent(product: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return where an inner product is not lost in rounding: no breakdown. Shape (B,), bool."""
    lengths = torch.linalg.vector_norm(first, dim=-1) * torch.linalg.vector_norm(second, dim=-1)
    floor = BREAKDOWN * torch.finfo(product.dtype).eps * lengths
    independent: Tensor = product.isfinite() & lengths.isfinite() & (product.abs() > floor)
    return independent


def _better(
    best: Tensor, smallest: Tensor, correction: Tensor, norm: Tensor, running: Tensor
) -> tuple[Tensor, Tensor]:
    better = running & (norm < smallest)
    kept = torch.where(better.unsqueeze(-1), correction, best)
    return kept, torch.where(better, norm, smallest)
