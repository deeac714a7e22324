"""The assembled adjoint system: LU, and the least-norm solution of samples that are singular."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..interfaces.fixed_point_operator import FixedPointOperator
from ..numerics.minimum_norm import minimum_norm
from ..numerics.solving import solve_checked, solve_square
from .system import AdjointProgress, ScaledSystem


@dataclass(frozen=True)
class DenseSolve:
    """What the assembled matrices gave, for the samples that were asked for.

    Attributes:
        inverse: (B, s) -> (B, s), for further right-hand sides; 0 for samples not asked for.
        adjoint: v: by LU, or of least norm where I - Φᵀ is singular. Shape (B, s).
        singular: Where I - Φᵀ is singular to working precision. Shape (B,), bool.
        null_vector: A random unit vector of the null space of those; 0 for others. Shape (B, s).
        products: With Φᵀ, spent on the assembly. Shape (B,), int64.
    """

    inverse: Callable[[Tensor], Tensor]
    adjoint: Tensor
    singular: Tensor
    null_vector: Tensor
    products: Tensor


def solve_dense(operator: FixedPointOperator, cotangent: Tensor, samples: Tensor) -> DenseSolve:
    """Assemble I - Φᵀ and solve for the samples asked for, without gradient.

    A shared matrix is factored once. Samples whose matrix is not finite are singular, without
    null vector, and keep v = g.

    Args:
        operator: Φ.
        cotangent: g. Shape (B, s).
        samples: Shape (B,), bool.
    """
    with torch.no_grad():
        phi = operator.dense()
        matrix = torch.eye(operator.size, dtype=phi.dtype, device=phi.device) - phi.mT
        # An operator that knows its matrix overrides dense(); the inherited one costs s products.
        inherited = type(operator).dense is FixedPointOperator.dense
        chosen = matrix[0] if operator.shared_by_batch else matrix[samples]

        def inverse(right: Tensor) -> Tensor:
            solved = torch.zeros_like(right)
            solved[samples] = solve_square(chosen, right[samples])
            return solved

        adjoint, null_vector = cotangent.clone(), torch.zeros_like(cotangent)
        singular = torch.zeros_like(samples)
        adjoint[samples], singular[samples] = solve_checked(chosen, cotangent[samples])
        if bool(singular.any()):
            degenerate = matrix[0] if operator.shared_by_batch else matrix[singular]
            least = minimum_norm(degenerate, cotangent[singular])
            known = (least.rank >= 0).unsqueeze(-1)
            adjoint[singular] = torch.where(known, least.solution, cotangent[singular])
            null_vector[singular] = least.null_vector
        return DenseSolve(
            inverse=inverse,
            adjoint=adjoint,
            singular=singular,
            null_vector=null_vector,
            products=samples * (operator.size if inherited else 0),
        )


def refine_adjoint(
    operator: FixedPointOperator,
    system: ScaledSystem,
    progress: AdjointProgress,
    inverse: Callable[[Tensor], Tensor],
    samples: Tensor,
    steps: int,
) -> AdjointProgress:
    """Take steps of iterative refinement where a measured residual is above tolerance.

    Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), chapter 12.

    Args:
        operator, system, progress: Φ, the system and where it stands.
        inverse: The solve to be repeated. (B, s) -> (B, s).
        samples: Those it may be applied to. Shape (B,), bool.
        steps: Largest number of steps.
    """
    # Differs from Higham's in where the residual comes from: products with Φᵀ itself and not the matrix
    # that was factored. A wrong matrix then shows as no progress, instead of as an exact solution of
    # another system. Nothing is computed in extended precision, and a step that does harm is dropped.
    for _ in range(steps):
        active = samples & system.unsolved(progress)
        if not bool(active.any()):
            break
        trial = progress.adjoint + inverse(progress.residual)
        progress = progress.attempt(system, operator, trial, active)
    return progress
