"""One run of conjugate gradients for a batch, under a mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foldcore.adjoints import KrylovCycle

Product = Callable[[Tensor], Tensor]


def cg_cycle(
    apply: Product,
    residual: Tensor,
    norm: Tensor,
    active: Tensor,
    budget: Tensor,
    *,
    tolerance: Tensor,
) -> KrylovCycle:
    """Solve M d = r for symmetric positive definite M.

    Invariant: the k-th d minimises the M-norm of the error over the Krylov space K_k(M, r). A
    direction p with pᵀMp <= 0 proves that M is not positive definite: the sample is broken.

    Source: Saad, Iterative Methods for Sparse Linear Systems (2003), algorithm 6.18.

    Args:
        apply: M·p. (B, s) -> (B, s).
        residual, norm, active, budget: See :data:`foldcore.KrylovMethod`.
        tolerance: Of the recursive residual. Shape (B,).
    """
    correction = torch.zeros_like(residual)
    direction = torch.where(active.unsqueeze(-1), residual, correction)
    square = norm * norm
    products, broken = torch.zeros_like(budget), torch.zeros_like(active)
    running = active
    while bool(running.any()):
        image = apply(direction)
        products = products + running
        curvature = (direction * image).sum(-1)
        sound = running & curvature.isfinite() & (curvature > 0)
        broken = broken | (running & ~sound)
        step = torch.where(sound, square / curvature, 0.0).unsqueeze(-1)
        correction = correction + step * direction
        residual = torch.where(sound.unsqueeze(-1), residual - step * image, residual)
        following = (residual * residual).sum(-1)
        running = sound & (following.sqrt() > tolerance) & (products < budget)
        ratio = torch.where(running, following / square, 0.0).unsqueeze(-1)
        direction = torch.where(running.unsqueeze(-1), residual + ratio * direction, 0.0)
        square = torch.where(running, following, square)
    return KrylovCycle(correction, products, broken)


def cgnr_cycle(
    transposed: Product,
    forward: Product,
    residual: Tensor,
    norm: Tensor,
    active: Tensor,
    budget: Tensor,
    *,
    tolerance: Tensor,
) -> KrylovCycle:
    """Minimise ‖r - A d‖₂ by conjugate gradients on AᵀA d = Aᵀr, for any A.

    Invariant: the k-th d minimises ‖r - A d‖₂ over K_k(AᵀA, Aᵀr). A is applied and transposed in
    turn, never squared. A sample whose Aᵀr is 0 with r above tolerance is at a least-squares
    solution of an inconsistent system: it is broken.

    Source: Saad (2003), algorithm 8.4 (CGNR).

    Args:
        transposed: A·p, A = I - Φᵀ. (B, s) -> (B, s).
        forward: Aᵀ·p. (B, s) -> (B, s).
        residual, norm, active, budget: See :data:`foldcore.KrylovMethod`; the
            budget counts both products.
        tolerance: Of the recursive residual. Shape (B,).
    """
    # Rounding alone leaves this part of a residual in an Aᵀr that is 0.
    noise = 100 * torch.finfo(residual.dtype).eps
    correction = torch.zeros_like(residual)
    residual = torch.where(active.unsqueeze(-1), residual, correction)
    direction = forward(residual)
    products = torch.zeros_like(budget) + active
    square = (direction * direction).sum(-1)
    broken = active & ~(square.isfinite() & (square.sqrt() > noise * norm))
    running = active & ~broken & (products < budget)
    direction = torch.where(running.unsqueeze(-1), direction, 0.0)
    while bool(running.any()):
        image = transposed(direction)
        products = products + running
        length = (image * image).sum(-1)
        sound = running & length.isfinite() & (length > 0)
        broken = broken | (running & ~sound)
        step = torch.where(sound, square / length, 0.0).unsqueeze(-1)
        correction = correction + step * direction
        residual = torch.where(sound.unsqueeze(-1), residual - step * image, residual)
        remaining = torch.linalg.vector_norm(residual, dim=-1)
        running = sound & (remaining > tolerance) & (products + 1 < budget)
        if not bool(running.any()):
            break
        pulled = forward(torch.where(running.unsqueeze(-1), residual, 0.0))
        products = products + running
        following = (pulled * pulled).sum(-1)
        stuck = running & ~(following.isfinite() & (following.sqrt() > noise * remaining))
        broken = broken | stuck
        running = running & ~stuck
        ratio = torch.where(running, following / square, 0.0).unsqueeze(-1)
        direction = torch.where(running.unsqueeze(-1), pulled + ratio * direction, 0.0)
        square = torch.where(running, following, square)
    return KrylovCycle(correction, products, broken)
