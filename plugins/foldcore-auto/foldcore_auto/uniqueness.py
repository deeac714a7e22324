"""Whether I - Φᵀ has a null space, by products alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foldcore.adjoints import AdjointProgress, ScaledSystem
from foldcore.interfaces import FixedPointOperator

from .stages import krylov

_LEFT = 1e-3
"""What remains of a random vector counts from this part of its expected component along one
direction, 1/√s; a component is smaller than that by chance with probability 1e-3."""

_NULL = 1e-6
"""‖(I - Φᵀ) n‖ / ‖n‖ up to which n is a null vector where no dense matrix can decide."""


@dataclass(frozen=True)
class NullSpaceProbe:
    """What a random vector left behind.

    Attributes:
        suspicious: Samples whose I - Φᵀ may be singular. Shape (B,), bool.
        null_vector: Unit vectors with (I - Φᵀ) n ≈ 0, 0 for samples without. Shape (B, s).
        products: Spent. Shape (B,), int64.
    """

    suspicious: Tensor
    null_vector: Tensor
    products: Tensor


def probe_null_space(
    operator: FixedPointOperator,
    samples: Tensor,
    *,
    rtol: float,
    restart: int,
    max_iter: int,
    polish: bool,
) -> NullSpaceProbe:
    """Solve (I - Φᵀ) w = (I - Φᵀ) u for a random u from w = 0, and look at n = u - w.

    Invariant: the system is consistent whatever Φ is. Where I - Φᵀ is regular w = u and nothing
    is left; otherwise n lies in the null space, since w takes no part in it.

    Args:
        operator: Φ.
        samples: Those to look at. Shape (B,), bool.
        rtol, restart, max_iter: Of the solve.
        polish: Solve on to rounding error where something is left, so that the null vector is
            accurate enough to be used itself.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(operator.size, generator=generator, dtype=torch.float64)
    drawn = (drawn / drawn.norm()).to(dtype=operator.dtype, device=operator.device)
    start = torch.where(samples.unsqueeze(-1), drawn, 0.0)
    right = start - operator.vjp(start)
    system = ScaledSystem.of(right, rtol, 0.0)
    nothing = torch.zeros_like(right)
    norm = torch.linalg.vector_norm(system.cotangent, dim=-1)
    origin = AdjointProgress(nothing, system.cotangent, norm, samples.to(torch.int64))
    found = krylov(operator, system, origin, restart=restart, max_iter=max_iter)
    left, length = _remainder(system, start, found)
    suspicious = samples & (length > _LEFT / operator.size**0.5)
    if polish and bool(suspicious.any()):
        floor = ScaledSystem.of(right, 0.0, 0.0).tolerance
        system = replace(system, tolerance=torch.where(suspicious, floor, torch.inf))
        found = krylov(operator, system, found, restart=restart, max_iter=2 * max_iter)
        left, length = _remainder(system, start, found)
    # (I - Φᵀ)(u - w) is the residual of w.
    flatness = found.norm * system.scale / length
    null = suspicious & (flatness <= _NULL)
    unit = torch.where(null.unsqueeze(-1), left / length.unsqueeze(-1), nothing)
    return NullSpaceProbe(suspicious, unit, found.products)


def _remainder(
    system: ScaledSystem, start: Tensor, found: AdjointProgress
) -> tuple[Tensor, Tensor]:
    """Return n = u - w and its length. Rows that were not looked at are 0 on both sides."""
    left = start - found.adjoint * system.scale.unsqueeze(-1)
    return left, torch.linalg.vector_norm(left, dim=-1)
