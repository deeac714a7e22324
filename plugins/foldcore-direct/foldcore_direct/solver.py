"""The exact solve of (I - Φᵀ) v = g, by the rule's own means or by LU of the assembled matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from foldcore import (
    AdjointSolution,
    AdjointSolver,
    FixedPointOperator,
    PluginConfig,
    UnsupportedError,
    solve_checked,
    solve_square,
)

from .config import DirectConfig
from .scaling import ScaledSystem


class DirectAdjoint(AdjointSolver):
    """Solve once, measure, and refine where the measurement asks for it.

    Invariant: the residual is measured by ``operator.vjp``, not by the matrix that was solved
    with, so that a wrong ``dense`` or ``solve_transposed`` shows as not converged. Samples that
    are not finite, or whose I - Φᵀ is singular to working precision, end as not converged with
    v = g and its true residual, even where g lies in the range: v is then not unique, and LU would
    pick one at random. Nothing is regularised. Samples never mix.

    Where the operator offers ``solve_transposed`` that is used. Otherwise Φ is assembled, (B, s, s)
    or (s, s) where shared by the batch, which is then factored once for all samples.

    The result carries no graph: derivatives of v are the business of who asked for it.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = DirectConfig
    rank: ClassVar[float] = 5.0

    def __init__(self, config: DirectConfig) -> None:
        self.config: DirectConfig = config

    @torch.no_grad()
    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        """See :meth:`AdjointSolver.solve`. ``iterations`` counts products with Φᵀ.

        That is one to measure, one for each step of refinement, and s where Φ had to be assembled
        from products. A sample counts as converged if ‖g - (I - Φᵀ) v‖₂ <= max(atol, rtol·‖g‖₂),
        with rtol at least 50 machine epsilons of the dtype.
        """
        system = ScaledSystem.of(cotangent, self.config.rtol, self.config.atol)
        norm = torch.zeros_like(system.tolerance)
        used = torch.zeros(norm.shape, dtype=torch.int64, device=norm.device)
        if operator.zero or not bool(system.nonzero.any()):
            return system.report(system.cotangent, norm, used)

        first = _solve_first(operator, system.cotangent)
        solved = first.solved & first.adjoint.isfinite().all(-1)
        adjoint = torch.where(solved.unsqueeze(-1), first.adjoint, system.cotangent)
        # In this order g cannot be lost beside the huge v of an almost singular sample.
        residual = system.cotangent - (adjoint - operator.vjp(adjoint))
        used = used + (first.products + 1) * system.nonzero
        norm = torch.where(system.nonzero, torch.linalg.vector_norm(residual, dim=-1), norm)
        for _ in range(self.config.refine):
            active = (norm > system.tolerance) & norm.isfinite() & solved
            if not bool(active.any()):
                break
            trial = adjoint + first.inverse(residual)
            trial = torch.where(active.unsqueeze(-1), trial, adjoint)
            trial_residual = system.cotangent - (trial - operator.vjp(trial))
            used = used + active
            trial_norm = torch.linalg.vector_norm(trial_residual, dim=-1)
            better = active & (trial_norm < norm)
            adjoint = torch.where(better.unsqueeze(-1), trial, adjoint)
            residual = torch.where(better.unsqueeze(-1), trial_residual, residual)
            norm = torch.where(better, trial_norm, norm)
        answer = system.report(adjoint, norm, used)
        return replace(answer, converged=answer.converged & (solved | ~system.nonzero))


@dataclass(frozen=True)
class _First:
    """A solve with I - Φᵀ, and what it gave for g.

    Attributes:
        inverse: (B, s) -> (B, s), for further right-hand sides.
        adjoint: Shape (B, s).
        solved: False where I - Φᵀ is known to be singular. Shape (B,), bool.
        products: With Φᵀ, per sample.
    """

    inverse: Callable[[Tensor], Tensor]
    adjoint: Tensor
    solved: Tensor
    products: int


def _solve_first(operator: FixedPointOperator, cotangent: Tensor) -> _First:
    try:
        adjoint = operator.solve_transposed(cotangent)
    except UnsupportedError:
        return _factorise(operator, cotangent)
    everywhere = torch.ones_like(cotangent[:, 0], dtype=torch.bool)
    return _First(operator.solve_transposed, adjoint, everywhere, 0)


def _factorise(operator: FixedPointOperator, cotangent: Tensor) -> _First:
    phi = operator.dense()
    eye = torch.eye(operator.size, dtype=phi.dtype, device=phi.device)
    system = eye - phi.mT
    if operator.shared_by_batch:
        system = system[0]
    adjoint, singular = solve_checked(system, cotangent)
    # An operator that knows its matrix overrides dense(); the inherited one costs s products.
    inherited = type(operator).dense is FixedPointOperator.dense
    return _First(
        inverse=lambda right: solve_square(system, right),
        adjoint=adjoint,
        solved=~singular,
        products=operator.size if inherited else 0,
    )
