"""The exact solve of (I - Φᵀ) v = g, by the rule's own means or by LU of the assembled matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from foldcore import UnsupportedError
from foldcore.adjoints import DenseSolve, ScaledAdjoint, ScaledSystem, refine_adjoint, solve_dense
from foldcore.interfaces import AdjointSolution, FixedPointOperator, PluginConfig

from .config import DirectConfig


class DirectAdjoint(ScaledAdjoint):
    """Solve once, measure, and refine where the measurement asks for it.

    Invariant: the residual is measured by ``operator.vjp``, not by the matrix that was solved
    with, so that a wrong ``dense`` or ``solve_transposed`` shows as not converged. A sample whose
    I - Φᵀ is singular to working precision gets the least-squares solution of least norm: where g
    lies in the range it counts as converged and a ``null_vector`` comes with it, else it does not
    converge. Nothing is regularised. Samples never mix.

    Where the operator offers ``solve_transposed`` that is used. Otherwise Φ is assembled, (B, s, s)
    or (s, s) where shared by the batch, which is then factored once for all samples.

    ``iterations`` counts one product to measure, one for each step of refinement, and s where Φ had
    to be assembled from products.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = DirectConfig
    config: DirectConfig
    rank: ClassVar[float] = 5.0

    def solve_scaled(self, operator: FixedPointOperator, system: ScaledSystem) -> AdjointSolution:
        first = _solve_first(operator, system)
        usable = system.nonzero & first.adjoint.isfinite().all(-1)
        # Nothing is known of v = g but its cotangent, so that any measured trial is better.
        best = system.untouched()
        best = replace(
            best,
            norm=torch.where(system.nonzero, torch.inf, best.norm),
            products=first.products,
        )
        trial = torch.where(usable.unsqueeze(-1), first.adjoint, system.cotangent)
        best = best.attempt(system, operator, trial, system.nonzero)
        regular = usable & ~first.singular
        best = refine_adjoint(operator, system, best, first.inverse, regular, self.config.refine)
        answer = best.report(system)
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
