"""Restarted GMRES on (I - Φᵀ) v = g for a batch of samples."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from foldcore.adjoints import KrylovAdjoint, KrylovMethod, ScaledSystem, gmres_cycle
from foldcore.interfaces import FixedPointOperator, PluginConfig

from .config import GMRESConfig


class GMRESAdjoint(KrylovAdjoint):
    """GMRES(m): each cycle minimises ‖g - (I - Φᵀ) v‖₂ over v + K_m(I - Φᵀ, r).

    Source: see :func:`foldcore.gmres_cycle`.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = GMRESConfig
    config: GMRESConfig
    rank: ClassVar[float] = 20.0

    def cycle(self, operator: FixedPointOperator, system: ScaledSystem) -> KrylovMethod:
        return partial(
            gmres_cycle, operator, tolerance=system.tolerance, restart=self.config.restart
        )
