"""Restarted GMRES on (I - Φᵀ) v = g for a batch of samples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foldcore import AdjointSolution, AdjointSolver, FixedPointOperator, PluginConfig

from .config import GMRESConfig
from .cycle import run_cycle
from .scaling import ScaledSystem

STAGNATION = 0.999
"""A cycle that leaves more than this part of the residual is the last: the next would repeat it."""


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
        adjoint = system.cotangent
        norm = torch.zeros_like(system.tolerance)
        used = torch.zeros(norm.shape, dtype=torch.int64, device=norm.device)
        if operator.zero or not bool(system.nonzero.any()):
            return system.report(adjoint, norm, used)

        # The residual of v = g is g - (I - Φᵀ) g = Φᵀ g.
        residual = operator.vjp(adjoint)
        used = used + system.nonzero
        norm = torch.where(system.nonzero, torch.linalg.vector_norm(residual, dim=-1), norm)
        active = (norm > system.tolerance) & norm.isfinite()
        while True:
            # Each cycle needs a step and the product that measures what it achieved.
            active = active & (used + 2 <= self.config.max_iter)
            if not bool(active.any()):
                return system.report(adjoint, norm, used)
            correction, steps = run_cycle(
                operator,
                residual,
                norm,
                active=active,
                tolerance=system.tolerance,
                budget=self.config.max_iter - 1 - used,
                restart=self.config.restart,
            )
            trial = adjoint + correction
            # In this order g cannot be lost beside a large v.
            trial_residual = system.cotangent - (trial - operator.vjp(trial))
            used = used + steps + active
            trial_norm = torch.linalg.vector_norm(trial_residual, dim=-1)
            better = active & (trial_norm < norm)
            going = better & (trial_norm <= STAGNATION * norm)
            adjoint = torch.where(better.unsqueeze(-1), trial, adjoint)
            residual = torch.where(better.unsqueeze(-1), trial_residual, residual)
            norm = torch.where(better, trial_norm, norm)
            active = going & (norm > system.tolerance)
