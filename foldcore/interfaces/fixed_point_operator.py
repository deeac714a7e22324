"""FixedPointOperator: Φ = ∂U/∂z at a fixed point, known by its products."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..errors import UnsupportedError


class FixedPointOperator(ABC):
    """Φ = ∂U/∂z at a fixed point, one s-by-s matrix per sample, known by its products.

    Invariant: <cotangent, jvp(t)> == <vjp(cotangent), t> for every cotangent and t.

    Attributes:
        batch: B, the number of samples.
        size: s, the length of one sample's state.
        dtype, device: Of the state.
        symmetric: True only where Φ = Φᵀ is known by construction.
        zero: True only where Φ = 0 is known by construction.
        shared_by_batch: True where all samples have one and the same Φ.
    """

    batch: int
    size: int
    dtype: torch.dtype
    device: torch.device
    symmetric: bool = False
    zero: bool = False
    shared_by_batch: bool = False

    @abstractmethod
    def vjp(self, cotangent: Tensor) -> Tensor:
        """Return Φᵀ·cotangent. Shapes (B, s) -> (B, s), rows independent of each other."""

    def jvp(self, tangent: Tensor) -> Tensor:
        """Return Φ·tangent. Shapes (B, s) -> (B, s).

        Raises:
            UnsupportedError: If the operator has no forward product.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no jvp; use an adjoint solver without it."
        )

    def dense(self) -> Tensor:
        """Return Φ assembled, (B, s, s), or (1, s, s) where ``shared_by_batch``. Costs s products."""
        rows = 1 if self.shared_by_batch else self.batch
        matrix = torch.zeros(rows, self.size, self.size, dtype=self.dtype, device=self.device)
        if self.zero:
            return matrix
        for i in range(self.size):
            unit = torch.zeros(self.batch, self.size, dtype=self.dtype, device=self.device)
            unit[:, i] = 1.0
            matrix[:, i, :] = self.vjp(unit)[:rows]
        return matrix

    def sparse(self) -> Tensor:
        """Return Φ as a sparse COO tensor (B, s, s).

        Raises:
            UnsupportedError: If the operator knows no sparse form.
        """
        raise UnsupportedError(f"{type(self).__name__} has no sparse form; use dense().")

    def solve_transposed(self, cotangent: Tensor) -> Tensor:
        """Return v with (I - Φᵀ) v = cotangent where the rule knows a direct way.

        Raises:
            UnsupportedError: If the operator knows none.
        """
        if self.zero:
            return cotangent
        raise UnsupportedError(f"{type(self).__name__} has no direct solve; use products.")


class ZeroOperator(FixedPointOperator):
    """Φ = 0: the state of rules that are at rest to second order (Newton, SQP)."""

    symmetric = True
    zero = True
    shared_by_batch = True

    def __init__(self, state: Tensor) -> None:
        """Args: state: Any tensor of the fixed point's shape (B, s), dtype and device."""
        self.batch, self.size = state.shape
        self.dtype, self.device = state.dtype, state.device

    def vjp(self, cotangent: Tensor) -> Tensor:
        return torch.zeros_like(cotangent)

    def jvp(self, tangent: Tensor) -> Tensor:
        return torch.zeros_like(tangent)
