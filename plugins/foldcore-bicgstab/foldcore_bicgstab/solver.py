"""BiCGSTAB on (I - Φᵀ) v = g for a batch of samples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foldcore import (
    AdjointSolution,
    AdjointSolver,
    FixedPointOperator,
    PluginConfig,
    ScaledSystem,
    run_krylov_cycles,
)

from .config import BiCGSTABConfig
from .cycle import BiCGSTABRuns


class BiCGSTABAdjoint(AdjointSolver):
    """BiCGSTAB started at v = g, so that Φ = 0 takes one product.

    Invariant: memory is a fixed number of vectors per sample, however many iterations. The
    residual that decides is the true one, recomputed by a product where a run ends: at
    convergence by the recursion, which drifts from the truth, or at a breakdown. A sample that is
    not done then starts another run from there. The best iterate is returned. Samples are masked,
    never mixed.

    The result carries no graph: derivatives of v are the business of who asked for it.

    Source: see :class:`foldcore_bicgstab.cycle.BiCGSTABRuns`.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = BiCGSTABConfig
    rank: ClassVar[float] = 0.0

    def __init__(self, config: BiCGSTABConfig) -> None:
        self.config: BiCGSTABConfig = config

    @torch.no_grad()
    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        """See :meth:`AdjointSolver.solve`. ``iterations`` counts products with Φᵀ.

        A sample counts as converged if ‖g - (I - Φᵀ) v‖₂ <= max(atol, rtol·‖g‖₂), with rtol
        at least 50 machine epsilons of the dtype.
        """
        system = ScaledSystem.of(cotangent, self.config.rtol, self.config.atol)
        best = system.untouched()
        if not operator.zero and bool(system.nonzero.any()):
            best = run_krylov_cycles(
                operator,
                system,
                system.started(operator),
                BiCGSTABRuns(operator, system.tolerance),
                max_iter=self.config.max_iter,
                shortest=2,
                patience=self.config.restarts,
            )
        return system.report(best.adjoint, best.norm, best.products)
