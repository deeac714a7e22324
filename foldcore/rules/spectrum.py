"""Eigenvalues of Φ by products alone: spectral radius, and the step size that minimises it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..interfaces.fixed_point_operator import FixedPointOperator
from ..numerics.orthogonal import orthogonalise

_NULL = 1e-6
"""|φ| up to which an eigenvalue belongs to directions that the step size does not move."""


def ritz_values(operator: FixedPointOperator, dimension: int = 100) -> Tensor:
    """Return eigenvalues of Φᵀ on a Krylov space, by Arnoldi's method with reorthogonalisation.

    They are Φ's own eigenvalues once the space is invariant, at the latest at dimension s; before
    that the outermost are approximated first. Source: Saad, Numerical Methods for Large Eigenvalue
    Problems (2011), section 6.2.

    Args:
        operator: Φ for B samples.
        dimension: Largest dimension of the space, and number of products; cut at s.

    Returns:
        Shape (B, m), complex; zeros fill up samples whose space became invariant earlier.
    """
    m = min(dimension, operator.size)
    shape = (operator.batch, operator.size)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(operator.size, generator=generator, dtype=torch.float64)
    vector = start.to(dtype=operator.dtype, device=operator.device).expand(shape)
    tiny = 100 * torch.finfo(operator.dtype).eps
    basis = vector.new_zeros(operator.batch, m + 1, operator.size)
    basis[:, 0] = vector / vector.norm(dim=-1, keepdim=True)
    projected = vector.new_zeros(operator.batch, m + 1, m)
    for j in range(m):
        image = operator.vjp(basis[:, j])
        size = image.norm(dim=-1)
        image, projected[:, : j + 1, j] = orthogonalise(image, basis[:, : j + 1])
        norm = image.norm(dim=-1)
        alive = norm > tiny * size
        projected[:, j + 1, j] = torch.where(alive, norm, torch.zeros_like(norm))
        scale = torch.where(alive, norm, torch.ones_like(norm))
        basis[:, j + 1] = torch.where(alive[:, None], image / scale[:, None], 0.0)
        if not bool(alive.any()):
            break
    values: Tensor = torch.linalg.eigvals(projected[:, :m])
    return values


def spectral_radius(operator: FixedPointOperator, dimension: int = 100) -> Tensor:
    """Return ρ(Φ) per sample; see :func:`ritz_values` for what it costs and means. Shape (B,)."""
    if operator.zero or operator.size == 0:
        return torch.zeros(operator.batch, dtype=operator.dtype, device=operator.device)
    return ritz_values(operator, dimension).abs().amax(-1)


def fastest_step(operator: FixedPointOperator, step: Tensor, dimension: int = 100) -> Tensor:
    """Return the step size that minimises ρ(Φ), for rules with Φ(α) = T(I - αH) near a solution.

    There the eigenvalues that depend on the step are φ_i = 1 - αλ_i with λ_i those of H on the
    range of T, so that α* = 2 / (λ_min + λ_max), and ρ(Φ(α*)) = (κ - 1)/(κ + 1). This is the
    analysis that Kotary, Dinh and Fioretto leave open in appendix D. Constant for autograd.

    Args:
        operator: Φ at the present step.
        step: The present step, (1,) or (B,).
        dimension: See :func:`ritz_values`.

    Returns:
        Shape (B,). The present step where no eigenvalue tells more.
    """
    with torch.no_grad():
        present = step.expand(operator.batch)
        if operator.zero or operator.size == 0:
            return present
        values = ritz_values(operator, dimension)
        curvature = (1 - values.real) / present[:, None]
        # Eigenvalues 0 are directions that the constraints hold fixed, at any step.
        moved = (values.abs() > _NULL) & (curvature > 0)
        infinity = torch.full_like(curvature, float("inf"))
        smallest = torch.where(moved, curvature, infinity).amin(-1)
        largest = torch.where(moved, curvature, -infinity).amax(-1)
        known = moved.any(-1)
        best = 2 / (smallest + largest)
        return torch.where(known & torch.isfinite(best) & (best > 0), best, present)
