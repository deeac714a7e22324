"""Linear fixed-point iteration on (I - Φᵀ) v = g: the backward pass of fixed-point unfolding."""

from __future__ import annotations

from typing import ClassVar

import torch

from foldcore.adjoints import ScaledAdjoint, ScaledSystem
from foldcore.interfaces import AdjointSolution, FixedPointOperator, PluginConfig

from .anderson import Anderson
from .config import LFPIConfig

GROWTH_LIMIT = 1e6
"""A residual this many times the smallest one so far is taken as divergence: ρ(Φ) >= 1."""


class LFPIAdjoint(ScaledAdjoint):
    """v₀ = g, v_{k+1} = Φᵀ v_k + g, whose error falls as ρ(Φ)^k.

    Invariant: after k iterations without acceleration v_k = Σ_{i<=k} (Φᵀ)^i g. The residual of
    v_k is v_{k+1} - v_k, so that one iteration costs one product and the iterate returned is one
    whose residual was measured. Samples are masked, never mixed: one that has converged is
    frozen, one that diverges or turns non-finite stops with its best iterate and is reported.

    Source: equation (25) of the fixed-point folding paper (v₀ = g, not Φᵀ g). Acceleration:
    see :mod:`foldcore_lfpi.anderson`.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = LFPIConfig
    config: LFPIConfig
    rank: ClassVar[float] = 1.0

    def solve_scaled(self, operator: FixedPointOperator, system: ScaledSystem) -> AdjointSolution:
        start = system.cotangent
        used = torch.zeros(start.shape[0], dtype=torch.int64, device=start.device)
        window = min(self.config.anderson, operator.size)
        accelerator = Anderson(start, window) if window else None
        active = system.nonzero
        iterate, best = start, start
        smallest = torch.where(active, torch.inf, torch.zeros_like(system.tolerance))
        for _ in range(self.config.max_iter):
            if not bool(active.any()):
                break
            product = operator.vjp(iterate)
            following = product + start
            # v_{k+1} - v_k in the order that cannot lose g beside a large v.
            gap = start - (iterate - product)
            residual = torch.linalg.vector_norm(gap, dim=-1)
            used = used + active
            improved = active & (residual < smallest)
            best = torch.where(improved.unsqueeze(-1), iterate, best)
            smallest = torch.where(improved, residual, smallest)
            stray = ~(residual.isfinite() & (residual <= GROWTH_LIMIT * smallest))
            active = active & (smallest > system.tolerance)
            if accelerator is not None:
                following, stray = accelerator.propose(
                    following, gap, residual, smallest, improved, active, stray
                )
            active = active & ~stray
            iterate = torch.where(active.unsqueeze(-1), following, iterate)
        return system.report(best, smallest, used)
