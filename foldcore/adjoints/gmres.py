"""One GMRES cycle for a batch: Arnoldi, Givens rotations, back substitution, all under a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from ..interfaces.fixed_point_operator import FixedPointOperator
from .system import KrylovCycle


def gmres_cycle(
    operator: FixedPointOperator,
    residual: Tensor,
    norm: Tensor,
    active: Tensor,
    budget: Tensor,
    *,
    tolerance: Tensor,
    restart: int,
) -> KrylovCycle:
    """Minimise ‖r - (I - Φᵀ) d‖₂ over d in the Krylov space of r.

    Invariant: the arithmetic of one sample is the same, bit for bit, whatever the others of the
    batch hold and however long they take. A sample that stops gets zero columns from then on, and
    all sums over columns are taken one column at a time, where adding zeros changes nothing.

    A sample stops when its recursive residual is at most its tolerance (happy breakdown makes it
    0), its budget is spent, or its new column is unusable: not finite, or without a pivot because
    the Krylov space is exhausted and I - Φᵀ singular on it. That column is dropped.

    Source: Saad and Schultz, GMRES: a generalized minimal residual algorithm for solving
    nonsymmetric linear systems, SIAM J. Sci. Stat. Comput. 7 (1986), algorithm 4.

    Args:
        operator: Φ.
        residual: r. Shape (B, s).
        norm: ‖r‖₂. Shape (B,).
        active: Samples to work on; the others get d = 0. Shape (B,), bool.
        budget: Largest number of products per sample, >= 1 for active ones. Shape (B,), int64.
        tolerance: Shape (B,).
        restart: Largest number of steps.
    """
    # Differs from algorithm 4 in four things. 1. Gram-Schmidt is the classical one, twice, instead of the
    # modified one: as orthogonal, and two products of matrices a step instead of j small operations. 2. The
    # rotations are kept multiplied out, (B, m + 1, m + 1): again one product instead of j. 3. A column
    # without a usable pivot is dropped and ends the sample's cycle, where the textbook assumes that the
    # matrix is regular. 4. Samples that are done go on with zeros, for the batch steps together.
    batch, size = residual.shape
    width = min(restart, size)
    eps = torch.finfo(residual.dtype).eps
    zero, one = torch.zeros_like(norm), torch.ones_like(norm)
    nothing = torch.zeros_like(residual)

    basis = residual.new_empty(batch, width + 1, size)
    basis[:, 0] = torch.where(active.unsqueeze(-1), residual / norm.unsqueeze(-1), nothing)
    triangle = residual.new_zeros(batch, width, width)
    right = residual.new_zeros(batch, width)
    # All rotations so far as one orthogonal matrix: one product instead of j tiny operations.
    rotations = torch.eye(width + 1, dtype=residual.dtype, device=residual.device)
    rotations = rotations.repeat(batch, 1, 1)
    remaining = torch.where(active, norm, zero)
    steps = torch.zeros_like(budget)
    running = active
    taken = 0

    for j in range(width):
        vector = basis[:, j] - operator.vjp(basis[:, j])
        steps = steps + running
        vector = torch.where(running.unsqueeze(-1), vector, nothing)
        scale = torch.linalg.vector_norm(vector, dim=-1).maximum(one)
        vector, column = orthogonalise(vector, basis[:, : j + 1])
        below = torch.linalg.vector_norm(vector, dim=-1)

        column = torch.cat([column, below.unsqueeze(-1)], dim=-1).unsqueeze(-1)
        column = (rotations[:, : j + 2, : j + 2] @ column).squeeze(-1)
        radius = torch.hypot(column[:, j], column[:, j + 1])
        # Rounding in the j + 1 rotations leaves about (j + 2) epsilons of a zero; ten times that is none.
        sound = running & radius.isfinite() & (radius > 10 * (j + 2) * eps * scale)
        cos = torch.where(sound, column[:, j] / radius, one)
        sin = torch.where(sound, column[:, j + 1] / radius, zero)
        triangle[:, :j, j] = torch.where(sound.unsqueeze(-1), column[:, :j], nothing[:, :1])
        triangle[:, j, j] = torch.where(sound, radius, one)
        right[:, j] = torch.where(sound, cos * remaining, zero)
        remaining = torch.where(sound, -sin * remaining, remaining)
        _rotate(rotations, j, cos, sin)

        taken = j + 1
        running = sound & (remaining.abs() > tolerance) & (steps < budget)
        if taken == width or not bool(running.any()):
            break
        basis[:, taken] = torch.where(running.unsqueeze(-1), vector / below.unsqueeze(-1), nothing)

    correction = _combine(basis, triangle, right, taken)
    return KrylovCycle(correction, steps, torch.zeros_like(active))


def orthogonalise(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of a vector orthogonal to a basis, and its coefficients in the basis.

    Classical Gram-Schmidt, twice: orthogonal to rounding error, in matrix products of the batch.

    Args:
        vector: Shape (B, s).
        basis: Orthonormal rows. Shape (B, k, s).
    """
    column = vector.new_zeros(basis.shape[:2])
    for _ in range(2):
        part = torch.bmm(basis, vector.unsqueeze(-1))
        vector = vector - torch.bmm(basis.mT, part).squeeze(-1)
        column = column + part.squeeze(-1)
    return vector, column


def _rotate(rotations: Tensor, j: int, cos: Tensor, sin: Tensor) -> None:
    """Rotate rows j and j + 1, in place."""
    upper, lower = rotations[:, j].clone(), rotations[:, j + 1].clone()
    cos, sin = cos.unsqueeze(-1), sin.unsqueeze(-1)
    rotations[:, j] = cos * upper + sin * lower
    rotations[:, j + 1] = cos * lower - sin * upper


def _combine(basis: Tensor, triangle: Tensor, right: Tensor, taken: int) -> Tensor:
    """Return Σ y_k basis_k with triangle · y = right, by columns."""
    correction = torch.zeros_like(basis[:, 0])
    for k in reversed(range(taken)):
        weight = (right[:, k] / triangle[:, k, k]).unsqueeze(-1)
        right[:, :k] -= weight * triangle[:, :k, k]
        correction = correction + weight * basis[:, k]
    return correction
