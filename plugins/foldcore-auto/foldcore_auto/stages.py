"""The iterative stages: a few contraction steps under a rate test, then restarted GMRES."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from foldcore.adjoints import AdjointProgress, ScaledSystem, gmres_cycle, run_krylov_cycles
from foldcore.interfaces import FixedPointOperator

WINDOW = 3
"""Steps that a convergence rate is measured over: single ones vary where eigenvalues are complex."""


def contract(
    operator: FixedPointOperator, system: ScaledSystem, progress: AdjointProgress, steps: int
) -> tuple[AdjointProgress, Tensor]:
    """Iterate v <- Φᵀv + g as long as the measured rate promises convergence within ``steps``.

    Invariant: the residual r_k of v_k is the step itself, v_{k+1} = v_k + r_k, and falls as
    ρ(Φ)^k. With a rate q over the last three steps, log(tolerance/‖r‖)/log(q) more are needed;
    where they are too many the sample stops at once, with its best iterate.

    Returns:
        The progress, and the last rate of each sample; NaN where none was measured. Shape (B,).
    """
    iterate, residual = progress.adjoint, progress.residual
    best, norms = progress, [progress.norm]
    rate = torch.full_like(progress.norm, torch.nan)
    active = system.unsolved(progress)
    for step in range(1, steps + 1):
        if not bool(active.any()):
            break
        iterate = torch.where(active.unsqueeze(-1), iterate + residual, iterate)
        residual = system.residual(operator, iterate)
        norm = torch.linalg.vector_norm(residual, dim=-1)
        better = active & (norm < best.norm)
        best = AdjointProgress(
            adjoint=torch.where(better.unsqueeze(-1), iterate, best.adjoint),
            residual=torch.where(better.unsqueeze(-1), residual, best.residual),
            norm=torch.where(better, norm, best.norm),
            products=best.products + active,
        )
        norms.append(norm)
        active = active & (norm > system.tolerance) & norm.isfinite()
        if step >= WINDOW:
            measured = (norm / norms[step - WINDOW]) ** (1 / WINDOW)
            rate = torch.where(active, measured, rate)
            needed = torch.log(system.tolerance / norm) / torch.log(measured)
            active = active & (measured < 1) & (needed <= steps - step)
    return best, rate


def krylov(
    operator: FixedPointOperator,
    system: ScaledSystem,
    progress: AdjointProgress,
    *,
    restart: int,
    max_iter: Tensor | int,
) -> AdjointProgress:
    """Run restarted GMRES on all samples that are unsolved; ``max_iter`` as in run_krylov_cycles."""
    cycle = partial(gmres_cycle, operator, tolerance=system.tolerance, restart=restart)
    return run_krylov_cycles(operator, system, progress, cycle, max_iter=max_iter, shortest=1)
