"""The exact solve of (I - Φᵀ) v = g, by the rule's own means or by LU of the assembled matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from foldcore import (
    AdjointSolution,
    AdjointSolver,
    DenseSolve,
    FixedPointOperator,
    PluginConfig,
    ScaledSystem,
    UnsupportedError,
    refine_adjoint,
    solve_dense,
)

from .config import DirectConfig


class DirectAdjoint(AdjointSolver):
    """Solve once, measure, and refine where the measurement asks for it.

    Invariant: the residual is measured by ``operator.vjp``, not by the matrix that was solved
    with, so that a wrong ``dense`` or ``solve_transposed`` shows as not converged. A sample whose
    I - Φᵀ is singular to working precision gets the least-squares solution of least norm: where g
    lies in the range it counts as converged and a ``null_vector`` comes with it, else it does not
    converge. Nothing is regularised. Samples never mix.

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
        best = system.untouched()
        if operator.zero or not bool(system.nonzero.any()):
            return system.report(best.adjoint, best.norm, best.products)

        first = _solve_first(operator, system)
        usable = system.nonzero & first.adjoint.isfinite().all(-1)
        # Nothing is known of v = g but its cotangent, so that any measured trial is better.
        best = replace(
            best,
            norm=torch.where(system.nonzero, torch.inf, best.norm),
            products=first.products,
        )
        trial = torch.where(usable.unsqueeze(-1), first.adjoint, system.cotangent)
        best = best.attempt(system, operator, trial, system.nonzero)
        regular = usable & ~first.singular
        best = refine_adjoint(operator, system, best, first.inverse, regular, self.config.refine)
        answer = system.report(best.adjoint, best.norm, best.products)
        found = (answer.converged & first.singular).unsqueeze(-1)
        if not bool(found.any()):
            return answer
        return replace(answer, null_vector=torch.where(found, first.null_vector, 0.0))


def _solve_first(operator: FixedPointOperator, system: ScaledSystem) -> DenseSolve:
    """Solve by the rule's own direct way if it knows one, else by the assembled matrix."""
    try:
        adjoint = operator.solve_transposed(system.cotangent)
    except UnsupportedError:
        return solve_dense(operator, system.cotangent, system.nonzero)
    nothing = torch.zeros_like(adjoint)
    return DenseSolve(
        inverse=operator.solve_transposed,
        adjoint=adjoint,
        singular=torch.zeros_like(system.nonzero),
        null_vector=nothing,
        products=torch.zeros_like(system.nonzero, dtype=torch.int64),
    )
