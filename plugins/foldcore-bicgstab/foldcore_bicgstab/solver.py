"""BiCGSTAB on (I - Φᵀ) v = g for a batch of samples."""

from __future__ import annotations

from typing import ClassVar

from foldcore.adjoints import KrylovAdjoint, KrylovMethod, ScaledSystem
from foldcore.interfaces import FixedPointOperator, PluginConfig

from .config import BiCGSTABConfig
from .cycle import BiCGSTABRuns


class BiCGSTABAdjoint(KrylovAdjoint):
    """BiCGSTAB with another run where one ends too early.

    Invariant: memory is a fixed number of vectors per sample, however many iterations. A run ends at
    convergence by its recursion, which drifts from the truth, or at a breakdown; a sample that is
    not done then starts another run from its true residual.

    Source: see :class:`foldcore_bicgstab.cycle.BiCGSTABRuns`.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = BiCGSTABConfig
    config: BiCGSTABConfig
    rank: ClassVar[float] = 0.0

    @property
    def shortest(self) -> int:
        return 2

    @property
    def patience(self) -> int:
        return self.config.restarts

    def cycle(self, operator: FixedPointOperator, system: ScaledSystem) -> KrylovMethod:
        return BiCGSTABRuns(operator, system.tolerance)
