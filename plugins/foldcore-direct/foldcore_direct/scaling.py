"""The scaled system that every sample is solved in, and what counts as converged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldcore import AdjointSolution

RTOL_FLOOR = 50.0
"""In machine epsilons of the dtype: a smaller relative tolerance cannot be told from rounding."""


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
