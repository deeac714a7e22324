"""Φ of the dual step in closed form where g is a weighted sum of absolute values."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import FixedPointOperator, matvec


class BoxStepOperator(FixedPointOperator):
    """Φ = F (I - αM) of U(w) = clamp(w - α(Mw - c), ±λ): F keeps the entries that are not clamped.

    Args:
        gram: M = D P⁻¹ Dᵀ, symmetric. Shape (k, k) or (B, k, k).
        free: Entries that the step does not clamp. Shape (B, k), bool.
        step_size: α. Shape (B,).
    """

    def __init__(self, gram: Tensor, free: Tensor, step_size: Tensor) -> None:
        self.batch, self.size = free.shape
        self.dtype, self.device = gram.dtype, gram.device
        self._gram = gram
        self._mask = free.to(gram.dtype)
        self._column = step_size.unsqueeze(-1)

    def vjp(self, cotangent: Tensor) -> Tensor:
        return self._descended(self._mask * cotangent)

    def jvp(self, tangent: Tensor) -> Tensor:
        return self._mask * self._descended(tangent)

    def dense(self) -> Tensor:
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return self._mask.unsqueeze(-1) * (identity - self._column.unsqueeze(-1) * self._gram)

    def _descended(self, vector: Tensor) -> Tensor:
        return torch.addcmul(vector, self._column, matvec(self._gram, vector), value=-1)
