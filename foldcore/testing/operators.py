"""Operators with a known matrix, to test adjoint solvers against a dense reference."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError
from ..interfaces.fixed_point_operator import FixedPointOperator


class MatrixOperator(FixedPointOperator):
    """Φ given as dense matrices; counts its products.

    Invariant: ``vjp(c)[i] == Φ_iᵀ c_i`` and ``jvp(t)[i] == Φ_i t_i``; row i depends on sample i
    alone. ``dense`` is the inherited assembly from products, ``solve_transposed`` is not offered.

    Attributes:
        matrix: Φ. Shape (B, s, s), or (s, s) where shared by the batch.
        products: Number of calls of ``vjp`` so far. Set it to 0 to count anew.
        forward_products: Likewise of ``jvp``.

    Args:
        matrix: Φ, any floating dtype and device; not copied.
        batch: B; required with a shared matrix, otherwise taken from it.

    Raises:
        ShapeError: If the matrices are not square, or ``batch`` is missing or contradicts them.
    """

    def __init__(self, matrix: Tensor, batch: int | None = None) -> None:
        if matrix.ndim not in (2, 3) or matrix.shape[-1] != matrix.shape[-2]:
            raise ShapeError(
                f"MatrixOperator: matrix has shape {tuple(matrix.shape)}, expected (B, s, s) or (s, s)."
            )
        if matrix.ndim == 2 and batch is None:
            raise ShapeError("MatrixOperator: a shared matrix (s, s) needs batch=B beside it.")
        if matrix.ndim == 3 and batch not in (None, matrix.shape[0]):
            raise ShapeError(
                f"MatrixOperator: batch={batch} contradicts matrix of shape {tuple(matrix.shape)}."
            )
        self.matrix = matrix
        self.batch = matrix.shape[0] if batch is None else batch
        self.size = matrix.shape[-1]
        self.dtype, self.device = matrix.dtype, matrix.device
        self.shared_by_batch = matrix.ndim == 2
        self.products = 0
        self.forward_products = 0

    def vjp(self, cotangent: Tensor) -> Tensor:
        self.products += 1
        if self.shared_by_batch:
            return cotangent @ self.matrix
        return torch.bmm(cotangent.unsqueeze(1), self.matrix).squeeze(1)

    def jvp(self, tangent: Tensor) -> Tensor:
        self.forward_products += 1
        if self.shared_by_batch:
            return tangent @ self.matrix.mT
        return torch.bmm(tangent.unsqueeze(1), self.matrix.mT).squeeze(1)


def random_matrix(
    batch: int,
    size: int,
    radius: float,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return random nonsymmetric matrices with spectral radius exactly ``radius`` up to rounding.

    Repeats for one seed on one machine; drawn and scaled in float64 whatever ``dtype``.

    Args:
        batch, size: B and s.
        radius: ρ of every sample, >= 0.

    Returns:
        Shape (B, s, s).
    """
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(batch, size, size, generator=generator, dtype=torch.float64)
    spectral = torch.linalg.eigvals(matrix).abs().amax(-1)
    scaled: Tensor = matrix * (radius / spectral)[:, None, None]
    return scaled.to(dtype)


def random_cotangent(
    batch: int, size: int, *, seed: int = 1, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return standard normal cotangents g. Shape (B, s). Repeats for one seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, size, generator=generator, dtype=torch.float64).to(dtype)


def reference_adjoint(matrix: Tensor, cotangent: Tensor) -> Tensor:
    """Return v with (I - Φᵀ) v = g by LU in float64, one sample after the other.

    Args:
        matrix: Φ. Shape (B, s, s) or (s, s).
        cotangent: g. Shape (B, s).
    """
    phi = matrix.double().expand(cotangent.shape[0], -1, -1)
    eye = torch.eye(phi.shape[-1], dtype=torch.float64, device=phi.device)
    rows = [torch.linalg.solve(eye - phi[i].mT, cotangent[i].double()) for i in range(phi.shape[0])]
    return torch.stack(rows)


def adjoint_residual(matrix: Tensor, adjoint: Tensor, cotangent: Tensor) -> Tensor:
    """Return ‖g - (I - Φᵀ) v‖₂ per sample, computed in float64. Shape (B,)."""
    phi = matrix.double().expand(cotangent.shape[0], -1, -1)
    image = torch.einsum("bij,bi->bj", phi, adjoint.double())
    residual = cotangent.double() - (adjoint.double() - image)
    norm: Tensor = torch.linalg.vector_norm(residual, dim=-1)
    return norm
