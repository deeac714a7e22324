"""What adjoint solvers share: scaling, trivial cases, the report; of Krylov methods all but the cycle."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..config import IterativeConfig, ToleranceConfig
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.fixed_point_operator import FixedPointOperator
from ..solution import AdjointSolution
from .system import KrylovMethod, ScaledSystem, run_krylov_cycles


class ScaledAdjoint(AdjointSolver):
    """An adjoint solver that sees a :class:`ScaledSystem` with something to solve.

    The result carries no graph: derivatives of v are the business of who asked for it.

    Args:
        config: Its rtol and atol, and what more ``config_class`` has.
    """

    config: ToleranceConfig

    def __init__(self, config: ToleranceConfig) -> None:
        self.config = config

    @torch.no_grad()
    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        """See :meth:`AdjointSolver.solve`. ``iterations`` counts products with Φᵀ.

        A sample counts as converged if ‖g - (I - Φᵀ) v‖₂ <= max(atol, rtol·‖g‖₂), with rtol
        at least 50 machine epsilons of the dtype.
        """
        system = ScaledSystem.of(cotangent, self.config.rtol, self.config.atol)
        if operator.zero or not bool(system.nonzero.any()):
            return self.solve_trivial(operator, system)
        return self.solve_scaled(operator, system)

    @abstractmethod
    def solve_scaled(self, operator: FixedPointOperator, system: ScaledSystem) -> AdjointSolution:
        """Return v and the report, without gradient; ``system.nonzero`` holds somewhere."""

    def solve_trivial(self, operator: FixedPointOperator, system: ScaledSystem) -> AdjointSolution:
        """Return v = g, for Φ = 0 or g = 0."""
        return system.untouched().report(system)


class KrylovAdjoint(ScaledAdjoint):
    """A Krylov method started at v = g, so that Φ = 0 takes one product; subclasses give its cycle.

    Invariant: the residual that decides is the true one, measured by a product after each cycle: the
    method's own recursive one may be too small. A sample stops when it has converged, when a
    cycle no longer reduces its true residual, or when ``max_iter`` products are used; its best
    iterate is returned. Samples are masked, never mixed.
    """

    config: IterativeConfig

    @property
    def shortest(self) -> int:
        """Products of the shortest useful cycle, without the one that measures it."""
        return 1

    @property
    def patience(self) -> int:
        """Cycles without progress that a sample is granted in a row, beyond the first."""
        return 0

    @abstractmethod
    def cycle(self, operator: FixedPointOperator, system: ScaledSystem) -> KrylovMethod:
        """Return the method, for one solve: called once a cycle, without gradient."""

    def solve_scaled(self, operator: FixedPointOperator, system: ScaledSystem) -> AdjointSolution:
        """See :meth:`ScaledAdjoint.solve_scaled`."""
        return run_krylov_cycles(
            operator,
            system,
            system.started(operator),
            self.cycle(operator, system),
            max_iter=self.config.max_iter,
            shortest=self.shortest,
            patience=self.patience,
        ).report(system)
