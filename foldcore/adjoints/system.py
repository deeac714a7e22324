"""The adjoint system (I - Φᵀ) v = g as every adjoint solver treats it: scaled, measured, per sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..interfaces.fixed_point_operator import FixedPointOperator
from ..solution import AdjointSolution

RTOL_FLOOR = 50.0
"""In machine epsilons of the dtype: a smaller relative tolerance cannot be told from rounding. Measured
on random Φ of s = 10 to 500: the exact v, rounded, leaves a residual of up to 6 epsilons of ‖g‖ at
ρ(Φ) = 0.5 and up to 40 at 0.95."""

STAGNATION = 0.999
"""A cycle that leaves more than this part of the residual made no progress: at that rate a factor of ten
would take 2300 cycles."""


@dataclass(frozen=True)
class ScaledSystem:
    """(I - Φᵀ) v = g with each g divided by a power of two, so that no norm can underflow.

    Invariant: the scale is a power of two, so scaling changes no digit of any product or sum.

    Attributes:
        cotangent: g / scale, its largest entry in [1, 2); 0 for samples that are not finite.
            Shape (B, s).
        tolerance: max(atol, max(rtol, 50·eps)·‖g‖₂) / scale. Shape (B,).
        scale: Shape (B,).
        finite: Whether all entries of a sample's g are finite. Shape (B,), bool.
        nonzero: Whether a sample has anything to solve. Shape (B,), bool.
    """

    cotangent: Tensor
    tolerance: Tensor
    scale: Tensor
    finite: Tensor
    nonzero: Tensor

    @classmethod
    def of(cls, cotangent: Tensor, rtol: float, atol: float) -> ScaledSystem:
        """Scale g of shape (B, s)."""
        finite = cotangent.isfinite().all(-1)
        clean = torch.where(finite.unsqueeze(-1), cotangent, torch.zeros_like(cotangent))
        largest = clean.abs().amax(-1)
        nonzero = largest > 0
        mantissa = torch.frexp(largest).mantissa
        scale = torch.where(nonzero, largest / (2 * mantissa), torch.ones_like(largest))
        scaled = clean / scale.unsqueeze(-1)
        relative = max(rtol, RTOL_FLOOR * torch.finfo(cotangent.dtype).eps)
        norm = torch.linalg.vector_norm(scaled, dim=-1)
        return cls(scaled, torch.maximum(atol / scale, relative * norm), scale, finite, nonzero)

    def residual(self, operator: FixedPointOperator, adjoint: Tensor) -> Tensor:
        """Return g - (I - Φᵀ) v of the scaled system by one product. Shapes (B, s) -> (B, s)."""
        # In this order g cannot be lost beside a large v: v and Φᵀv nearly cancel where v is large.
        return self.cotangent - (adjoint - operator.vjp(adjoint))

    def untouched(self) -> AdjointProgress:
        """Return v = g as it stands before any product: exact for Φ = 0 and for g = 0."""
        norm = torch.zeros_like(self.tolerance)
        none = torch.zeros(norm.shape, dtype=torch.int64, device=norm.device)
        return AdjointProgress(self.cotangent, torch.zeros_like(self.cotangent), norm, none)

    def started(self, operator: FixedPointOperator) -> AdjointProgress:
        """Return v = g with its residual Φᵀg, by one product."""
        residual = operator.vjp(self.cotangent)
        norm = torch.linalg.vector_norm(residual, dim=-1)
        norm = torch.where(self.nonzero, norm, torch.zeros_like(norm))
        return AdjointProgress(self.cotangent, residual, norm, self.nonzero.to(torch.int64))

    def unsolved(self, progress: AdjointProgress) -> Tensor:
        """Return the samples whose residual is finite and above tolerance. Shape (B,), bool."""
        return (progress.norm > self.tolerance) & progress.norm.isfinite()

    def report(self, adjoint: Tensor, residual: Tensor, iterations: Tensor) -> AdjointSolution:
        """Undo the scaling. A residual that could not be measured is reported as inf.

        Args:
            adjoint: v of the scaled system. Shape (B, s).
            residual: ‖g - (I - Φᵀ) v‖₂ of it. Shape (B,).
            iterations: Products used. Shape (B,), int64.
        """
        known = self.finite & residual.isfinite()
        residual = torch.where(known, residual, torch.full_like(residual, torch.inf))
        return AdjointSolution(
            adjoint=adjoint * self.scale.unsqueeze(-1),
            residual=residual * self.scale,
            iterations=iterations,
            converged=residual <= self.tolerance,
        )


@dataclass(frozen=True)
class AdjointProgress:
    """The best iterate of every sample so far, with its true residual.

    Attributes:
        adjoint: v of the scaled system. Shape (B, s).
        residual: g - (I - Φᵀ) v, measured by a product. Shape (B, s).
        norm: ‖residual‖₂. Shape (B,).
        products: Used so far. Shape (B,), int64.
    """

    adjoint: Tensor
    residual: Tensor
    norm: Tensor
    products: Tensor

    def attempt(
        self, system: ScaledSystem, operator: FixedPointOperator, trial: Tensor, where: Tensor
    ) -> AdjointProgress:
        """Measure a trial (B, s) by one product; it is kept where it is asked for and better.

        Rows outside of ``where``, (B,) bool, are not touched.
        """
        trial = torch.where(where.unsqueeze(-1), trial, self.adjoint)
        residual = system.residual(operator, trial)
        norm = torch.linalg.vector_norm(residual, dim=-1)
        better = where & (norm < self.norm)
        return AdjointProgress(
            adjoint=torch.where(better.unsqueeze(-1), trial, self.adjoint),
            residual=torch.where(better.unsqueeze(-1), residual, self.residual),
            norm=torch.where(better, norm, self.norm),
            products=self.products + where,
        )

    def report(self, system: ScaledSystem) -> AdjointSolution:
        """Return the answer that these iterates are, unscaled."""
        return system.report(self.adjoint, self.norm, self.products)


@dataclass(frozen=True)
class KrylovCycle:
    """What one cycle of an iterative method proposes.

    Attributes:
        correction: d, to be added to v; 0 for samples that were not active. Shape (B, s).
        products: Used by the cycle. Shape (B,), int64.
        broken: Samples that the method cannot serve; another cycle is no use. Shape (B,), bool.
    """

    correction: Tensor
    products: Tensor
    broken: Tensor


class KrylovMethod(Protocol):
    """One cycle of an iterative method, for one solve."""

    def __call__(
        self, residual: Tensor, norm: Tensor, active: Tensor, budget: Tensor
    ) -> KrylovCycle:
        """Return a correction of (I - Φᵀ) d = r for each active sample, whatever the others hold.

        Args:
            residual: r. Shape (B, s).
            norm: ‖r‖₂. Shape (B,).
            active: Samples to work on. Shape (B,), bool.
            budget: Largest number of products per sample. Shape (B,), int64.
        """
        ...


def run_krylov_cycles(
    operator: FixedPointOperator,
    system: ScaledSystem,
    progress: AdjointProgress,
    cycle: KrylovMethod,
    *,
    max_iter: Tensor | int,
    shortest: int,
    patience: int = 0,
    active: Tensor | None = None,
) -> AdjointProgress:
    """Repeat a restarted method from the true residual until each sample converged or is given up.

    Invariant: the residual that decides is the true one, recomputed by a product after each
    cycle: where the method's own recursive one was too small, the sample goes on. Samples are
    masked, never mixed.

    Args:
        operator, system, progress: Φ, the system and where it stands.
        cycle: One cycle of the method.
        max_iter: Largest number of products per sample, those of ``progress`` included; a number
            or (B,).
        shortest: Products of the shortest useful cycle, without the one that measures it.
        patience: Cycles without progress that a sample is granted in a row, beyond the first.
        active: Samples to work on; all that are unsolved by default. Shape (B,), bool.
    """
    # Differs from the usual restarted loop in three things. 1. Each cycle is judged by the residual that a
    # product measures: recursive ones drift away from it. 2. An iterate that is no better than the best
    # one so far is dropped, so that no cycle can do harm. 3. Every sample has a budget of its own and is
    # given up by itself: what it gets does not depend on the batch it stands in.
    unsolved = system.unsolved(progress)
    active = unsolved if active is None else active & unsolved
    idle = torch.zeros_like(progress.products)
    while True:
        active = active & (progress.products + shortest + 1 <= max_iter)
        if not bool(active.any()):
            return progress
        budget = max_iter - 1 - progress.products
        done = cycle(progress.residual, progress.norm, active, budget)
        before = progress.norm
        spent = replace(progress, products=progress.products + done.products)
        progress = spent.attempt(system, operator, progress.adjoint + done.correction, active)
        idle = torch.where(progress.norm <= STAGNATION * before, 0, idle + 1)
        active = active & ~done.broken & (idle <= patience) & system.unsolved(progress)
