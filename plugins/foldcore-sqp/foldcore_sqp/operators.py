"""ScaledIdentity: Φ = cI, the Jacobian of a damped step that is at rest to second order."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import FixedPointOperator


class ScaledIdentity(FixedPointOperator):
    """Φ = c·I for every sample.

    Invariant: ``vjp(t) == jvp(t) == c·t`` and ``solve_transposed(g) == g / (1 - c)``.

    Args:
        state: Any tensor of the fixed point's shape (B, s), dtype and device.
        factor: c, below 1.
    """

    symmetric = True
    shared_by_batch = True

    def __init__(self, state: Tensor, factor: float) -> None:
        self.batch, self.size = state.shape
        self.dtype, self.device = state.dtype, state.device
        self.factor = factor
        self.zero = factor == 0

    def vjp(self, cotangent: Tensor) -> Tensor:
        return self.factor * cotangent

    def jvp(self, tangent: Tensor) -> Tensor:
        return self.factor * tangent

    def dense(self) -> Tensor:
        eye = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return self.factor * eye.unsqueeze(0)

    def solve_transposed(self, cotangent: Tensor) -> Tensor:
        return cotangent / (1 - self.factor)
