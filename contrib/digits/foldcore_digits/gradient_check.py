"""The layer's gradient against central differences of its forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_error(
    top_k: Callable[[Tensor], Tensor], logits: Tensor, *, seed: int = 0, step: float = 1e-5
) -> float:
    """Return the largest relative error of the gradient of wᵀx(c), w random, over the samples.

    The differences are taken along n random orthonormal directions, which is the whole gradient:
    per sample, the error is ‖gradient - differences‖₂ / ‖differences‖₂.

    Args:
        top_k: c (B, n) -> x (B, n), the layer.
        logits: c, float64. Shape (B, n).
        seed: Decides the directions and w.
        step: Half the distance of the two points of a difference, in units of c.
    """
    generator = torch.Generator().manual_seed(seed)
    samples, n = logits.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=logits.dtype)

    weights = normal(samples, n)
    directions = torch.linalg.qr(normal(n, n)).Q

    point = logits.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad((weights * top_k(point)).sum(), point)
    with torch.no_grad():
        shift = step * directions[:, None]
        forward, backward = (
            top_k((point + sign * shift).reshape(-1, n)).reshape(n, samples, n) for sign in (1, -1)
        )
        differences = (weights * (forward - backward)).sum(-1).T / (2 * step)
    error = (gradient @ directions.T - differences).norm(dim=-1)
    return float((error / differences.norm(dim=-1)).max())
