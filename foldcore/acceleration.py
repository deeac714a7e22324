"""Nesterov's momentum with adaptive restarts for proximal gradient steps, batched.

Source: Beck and Teboulle (2009), FISTA, which is (28c, d) of Kotary, Dinh, Fioretto; the restarts:
O'Donoghue and Candès, Adaptive restart for accelerated gradient schemes (2015), gradient scheme.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Accelerated:
    """Where an accelerated iteration ended, per sample.

    Attributes:
        state: The last iterate. Shape (B, s).
        residual: A bound of ‖U(z) - z‖₂ at it, divided by the step size. Shape (B,).
        converged: Whether the residual met its tolerance. Shape (B,), bool.
        iterations: Evaluations of the step. Shape (B,), int64.
    """

    state: Tensor
    residual: Tensor
    converged: Tensor
    iterations: Tensor


def accelerate(
    step: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    step_size: Tensor | float = 1.0,
    rtol: float = 1e-10,
    atol: float = 1e-10,
    max_iter: int = 10000,
) -> Accelerated:
    """Iterate z <- U(z) with momentum until ‖U(z) - z‖₂/step_size <= atol + rtol·‖z‖₂, without gradient.

    A sample that is done, or not finite any more, is frozen: none depends on its neighbours.

    Args:
        step: U, nonexpansive: a proximal gradient step of size at most 1/L. (B, s) -> (B, s).
        start: Shape (B, s).
        step_size: A number, () or (B,).
        rtol: Dimensionless; what rounding leaves of U(z) - z is allowed in any case.
        atol: In units of z / step.
        max_iter: Largest number of steps.
    """
    with torch.no_grad():
        allowed = rtol + 10 * torch.finfo(start.dtype).eps / step_size
        state, point = start, start
        weight = start.new_ones(start.shape[0])
        residual = torch.full_like(weight, torch.inf)
        running = torch.ones_like(weight, dtype=torch.bool)
        converged = ~running
        iterations = torch.zeros_like(running, dtype=torch.int64)
        for _ in range(max_iter):
            updated = step(point)
            iterations += running
            # U is nonexpansive, so U's own residual at U(z) is at most the one at z.
            gap = (updated - point).norm(dim=-1) / step_size
            residual = torch.where(running, gap, residual)
            converged = converged | (running & (gap <= atol + allowed * updated.norm(dim=-1)))
            moved = updated - state
            overshot = ((point - updated) * moved).sum(-1) > 0
            weight = torch.where(overshot, torch.ones_like(weight), weight)
            grown = (1 + (1 + 4 * weight * weight).sqrt()) / 2
            momentum = ((weight - 1) / grown).unsqueeze(-1)
            weight = torch.where(running, grown, weight)
            point = torch.where(running.unsqueeze(-1), updated + momentum * moved, point)
            state = torch.where(running.unsqueeze(-1), updated, state)
            running = running & ~converged & torch.isfinite(gap)
            if not bool(running.any()):
                break
        return Accelerated(state, residual, converged, iterations)
