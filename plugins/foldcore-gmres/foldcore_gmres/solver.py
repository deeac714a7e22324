"""Restarted GMRES on (I - Φᵀ) v = g for a batch of samples."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from foldcore import (
    AdjointSolution,
    AdjointSolver,
    FixedPointOperator,
    PluginConfig,
    ScaledSystem,
    gmres_cycle,
    run_krylov_cycles,
)

from .config import GMRESConfig


class GMRESAdjoint(AdjointSolver):
    """GMRES(m) started at v = g, so that Φ = 0 takes one product.

    Invariant: each cycle minimises ‖g - (I - Φᵀ) v‖₂ over v + K_m(I - Φᵀ, r). The residual that
    decides is the true one, recomputed by a product after each cycle: where the recursive one
    was too small, the sample goes on. A sample stops when it has converged, when a cycle no
    longer reduces its true residual, or when ``max_iter`` products are used; its best iterate is
    returned. Samples are masked, never mixed.

    The result carries no graph: derivatives of v are the business of who asked for it.

    Source: Saad and Schultz, GMRES: a generalized minimal residual algorithm for solving
    nonsymmetric linear systems, SIAM J. Sci. Stat. Comput. 7 (1986), algorithm 4.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = GMRESConfig
    rank: ClassVar[float] = 20.0

    def __init__(self, config: GMRESConfig) -> None:
        self.config: GMRESConfig = config

    @torch.no_grad()
    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        """See :meth:`AdjointSolver.solve`. ``iterations`` counts products with Φᵀ.

        A sample counts as converged if ‖g - (I - Φᵀ) v‖₂ <= max(atol, rtol·‖g‖₂), with rtol
        at least 50 machine epsilons of the dtype.
        """
        system = ScaledSystem.of(cotangent, self.config.rtol, self.config.atol)
        if operator.zero or not bool(system.nonzero.any()):
            best = system.untouched()
        else:
            best = run_krylov_cycles(
                operator,
                system,
                system.started(operator),
                partial(
                    gmres_cycle,
                    operator,
                    tolerance=system.tolerance,
                    restart=self.config.restart,
                ),
                max_iter=self.config.max_iter,
                shortest=1,
            )
        return system.report(best.adjoint, best.norm, best.products)
