"""Nesterov's momentum with adaptive restarts for proximal gradient steps, batched.

Source: Beck and Teboulle (2009), FISTA, which is (28c, d) of Kotary, Dinh, Fioretto; the restarts:
O'Donoghue and Candès, Adaptive restart for accelerated gradient schemes (2015), gradient scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


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

    A sample's answer is its state at the step at which it is done, or not finite any more, however
    long its neighbours take: none depends on them.

    Args:
        step: U, nonexpansive: a proximal gradient step of size at most 1/L. (B, s) -> (B, s), rows
            independent of each other.
        start: Shape (B, s).
        step_size: A number, () or (B,).
        rtol: Dimensionless; what rounding leaves of U(z) - z is allowed in any case.
        atol: In units of z / step.
        max_iter: Largest number of steps.
    """
    # Differs from FISTA in two things. 1. Momentum starts anew where the step points against the last
    # move (O'Donoghue and Candès, gradient scheme): without that it overshoots on strongly convex
    # problems and oscillates. 2. The stop is a bound of the residual at the iterate that is
    # returned, which costs no further step, since U is nonexpansive.
    with torch.no_grad():
        control = _Control(start, step_size, rtol=rtol, atol=atol)
        result, state, point = start, start, start
        for _ in range(max_iter if start.shape[0] else 0):
            updated = step(point)
            moved = updated - state
            ended = control.observe(updated - point, moved, updated)
            if ended is not None:
                result = updated if ended.all() else _with_rows(result, updated, ended)
                if not control.running.any():
                    break
            point = torch.addcmul(updated, control.momentum(), moved)
            state = updated
        if control.running.any():
            result = _with_rows(result, state, control.running)
        return control.report(result)


class _Control:
    """The numbers that steer each sample, kept on the host.

    A step on small data costs its calls: a handful of numbers are compared faster by numpy than by
    torch, and an accelerator is asked once a step. What does not steer is noted when a sample ends.

    Attributes:
        running: Samples that are not done. Shape (B,), bool.
    """

    def __init__(
        self, start: Tensor, step_size: Tensor | float, *, rtol: float, atol: float
    ) -> None:
        batch = start.shape[0]
        self._like = start
        given = _on_host(step_size) if isinstance(step_size, Tensor) else np.float64(step_size)
        # NaN for a step of 0: no residual can be measured, and NaN meets no tolerance.
        self._inverse = np.ones(batch) / np.where(given > 0, given, np.nan)
        # Rounding leaves some epsilons of ‖z‖ in U(z) - z, which the residual divides by the step.
        self._allowed = rtol + 10 * torch.finfo(start.dtype).eps * self._inverse
        self._atol = atol
        self._steps = 0
        self._since_restart = np.zeros(batch, dtype=np.int64)
        self._momenta = _momenta(256)
        self._gap = np.full(batch, np.inf)
        self._residual = self._gap
        self._converged = np.zeros(batch, dtype=bool)
        self._iterations = np.zeros(batch, dtype=np.int64)
        self.running = np.ones(batch, dtype=bool)

    def observe(self, change: Tensor, moved: Tensor, updated: Tensor) -> Flags | None:
        """Take note of one step; return the samples that it ended, (B,) bool, or None for none.

        Args:
            change: U(point) - point. Shape (B, s), likewise the others.
            moved: U(point) less the iterate before.
            updated: U(point).
        """
        numbers = (
            torch.linalg.vector_norm(change, dim=-1),
            torch.linalg.vector_norm(updated, dim=-1),
            torch.linalg.vecdot(change, moved),
        )
        length, size, along = _on_host(torch.stack(numbers))
        self._steps += 1
        # Against the direction of travel: the momentum has overshot.
        self._since_restart[along < 0] = 0
        # U is nonexpansive, so U's own residual at U(z) is at most the one at z.
        self._gap = length * self._inverse
        going = self._gap > self._atol + self._allowed * size  # False for NaN
        if (going >= self.running).all():
            return None
        ended: Flags = self.running & ~going
        self._note(ended)
        self._converged |= ended & np.isfinite(self._gap)
        self.running = self.running & going
        return ended

    def momentum(self) -> Tensor:
        """Return the factor of the last move that is added to the iterate. Shape (B, 1)."""
        if self._steps > len(self._momenta):
            self._momenta = _momenta(2 * len(self._momenta))
        factors = self._momenta[self._since_restart, None]
        self._since_restart += 1
        return torch.from_numpy(factors).to(self._like)

    def report(self, state: Tensor) -> Accelerated:
        """Return the outcome with the samples' answers, (B, s), as its state."""
        self._note(self.running)
        device = self._like.device
        return Accelerated(
            state=state,
            residual=torch.from_numpy(self._residual).to(self._like),
            converged=torch.from_numpy(self._converged).to(device),
            iterations=torch.from_numpy(self._iterations).to(device),
        )

    def _note(self, rows: Flags) -> None:
        self._residual = np.where(rows, self._gap, self._residual)
        self._iterations[rows] = self._steps


@cache
def _momenta(count: int) -> Numbers:
    """Return (t_k - 1)/t_{k+1} of (28c, d) for k = 1, …, count, with t_1 = 1."""
    weight, factors = 1.0, []
    for _ in range(count):
        grown = (1 + math.sqrt(1 + 4 * weight * weight)) / 2
        factors.append((weight - 1) / grown)
        weight = grown
    return np.array(factors)


def _on_host(value: Tensor) -> Numbers:
    result: Numbers = value.detach().cpu().double().numpy()
    return result


def _with_rows(result: Tensor, other: Tensor, rows: Flags) -> Tensor:
    """Return ``result`` with those rows of ``other``."""
    chosen = torch.from_numpy(rows).to(result.device)
    return torch.where(chosen.unsqueeze(-1), other, result)
