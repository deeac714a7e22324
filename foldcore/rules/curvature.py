"""Largest curvatures and operator norms by power iteration: what constant step sizes are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..program.program import SmoothProgram


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


def largest_curvature(program: SmoothProgram, point: Tensor) -> Tensor:
    """Estimate ‖∇²f(x)‖₂ of the smooth objective per sample. Shapes (B, n) -> (B,).

    By :func:`operator_norm` on Hessian products, which need no Hessian.
    """
    return operator_norm(lambda vector: program.hessian_product(point, vector), point)
