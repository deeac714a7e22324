"""The exact solve of (I - Φᵀ) v = g, by the rule's own means or by LU of the assembled matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from foldcore.errors import UnsupportedError
from foldcore.interfaces.adjoint_solver import AdjointSolver, FixedPointOperator
from foldcore.linalg import solve_square
from foldcore.plugin_config import PluginConfig
from foldcore.solution import AdjointSolution

from .config import DirectConfig
from .scaling import ScaledSystem


class DirectAdjoint(AdjointSolver):
    """Solve once, measure, and refine where the measurement asks for it.

    Invariant: the residual is measured by ``operator.vjp``, not by the matrix that was solved
    with, so that a wrong ``dense`` or ``solve_transposed`` shows as not converged. Singular
    samples and those that are not finite end as not converged, with a finite v; nothing is
    regularised. Samples never mix.

    Where the operator offers ``solve_transposed`` that is used. Otherwise Φ is assembled, (B, s, s)
    or (s, s) where shared by the batch, which is then factored once for all samples.

    The result carries no graph: derivatives of v are the business of who asked for it.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = DirectConfig
    rank: ClassVar[float] = 5.0

    def __init__(self, config: DirectConfig) -> None:
        self.config = config

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

        inverse, adjoint, products = _solve_first(operator, system.cotangent)
        solved = adjoint.isfinite().all(-1, keepdim=True)
        adjoint = torch.where(solved, adjoint, system.cotangent)
        residual = system.cotangent - adjoint + operator.vjp(adjoint)
        used = used + (products + 1) * system.nonzero
        norm = torch.where(system.nonzero, torch.linalg.vector_norm(residual, dim=-1), norm)
        for _ in range(self.config.refine):
            active = (norm > system.tolerance) & norm.isfinite() & solved.squeeze(-1)
            if not bool(active.any()):
                break
            wanted = torch.where(active.unsqueeze(-1), residual, torch.zeros_like(residual))
            trial = adjoint + inverse(wanted)
            trial_residual = system.cotangent - trial + operator.vjp(trial)
            used = used + active
            trial_norm = torch.linalg.vector_norm(trial_residual, dim=-1)
            better = active & (trial_norm < norm)
            adjoint = torch.where(better.unsqueeze(-1), trial, adjoint)
            residual = torch.where(better.unsqueeze(-1), trial_residual, residual)
            norm = torch.where(better, trial_norm, norm)
        return system.report(adjoint, norm, used)


def _solve_first(
    operator: FixedPointOperator, cotangent: Tensor
) -> tuple[Callable[[Tensor], Tensor], Tensor, int]:
    """Return a solve with I - Φᵀ, what it gives for g, and the products it took per sample."""
    try:
        return operator.solve_transposed, operator.solve_transposed(cotangent), 0
    except UnsupportedError:
        system = _assembled(operator)

    def inverse(right: Tensor) -> Tensor:
        return solve_square(system, right)

    # An operator that knows its matrix overrides dense(); the inherited one costs s products.
    assembled = type(operator).dense is FixedPointOperator.dense
    return inverse, inverse(cotangent), operator.size if assembled else 0


def _assembled(operator: FixedPointOperator) -> Tensor:
    """Return I - Φᵀ, (s, s) where shared by the batch, else (B, s, s); I where not finite."""
    phi = operator.dense()
    eye = torch.eye(operator.size, dtype=phi.dtype, device=phi.device)
    # LAPACK need not keep a sample's NaN to itself, nor return from it.
    finite = phi.isfinite().all(-1).all(-1)[:, None, None]
    system = torch.where(finite, eye - phi.mT, eye)
    return system[0] if operator.shared_by_batch else system
