"""AdjointSolver: solve (I - Φᵀ) v = g by products with Φᵀ, per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ..config import PluginConfig
from ..solution import AdjointSolution
from .fixed_point_operator import FixedPointOperator


class AdjointSolver(ABC):
    """Solve (I - Φᵀ) v = g for every sample of a batch.

    An implementation is built from its config (``AdjointSolver(config)``), keeps no state between
    calls and treats samples independently: no sample's result depends on another's.

    Attributes:
        api_version: The version of these interfaces the plugin was written for. Every plugin
            states it itself; the registry refuses others.
        config_class: The pydantic model of its options.
        config: The options it was built from.
        rank: Preference when the user names no adjoint solver; the usable one of highest rank
            is taken. 0 means never by default.
    """

    api_version: ClassVar[int]
    config_class: ClassVar[type[PluginConfig]]
    config: PluginConfig
    rank: ClassVar[float] = 0.0

    @abstractmethod
    def __init__(self, config: PluginConfig) -> None:
        """Args: config: An instance of ``config_class``."""

    @classmethod
    def unusable_reason(cls) -> str | None:
        """Return why this plugin cannot work on this machine, or None where it can."""
        return None

    @abstractmethod
    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        """Return v and an honest report.

        Invariant: ``residual`` is that of the returned ``adjoint``; a sample counts as converged
        only if it is at most max(atol, rtol·‖g‖₂). A zero cotangent gives exactly zero with no
        product needed; Φ = 0 gives v = g.

        Args:
            operator: Φ at the fixed point.
            cotangent: g. Shape (B, s); finite.
        """
