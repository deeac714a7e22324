"""AdjointSolver: solve (I - Φᵀ) v = g by products with Φᵀ, per sample."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from ..solution import AdjointSolution
from .fixed_point_operator import FixedPointOperator
from .plugin import Plugin


class AdjointSolver(Plugin):
    """Solve (I - Φᵀ) v = g for every sample of a batch.

    An implementation is built from its config (``AdjointSolver(config)``), keeps no state between
    calls and treats samples independently: no sample's result depends on another's.

    Attributes:
        api_version, config_class, config: See :class:`Plugin`.
        rank: Preference when the user names no adjoint solver; the usable one of highest rank
            is taken. 0 means never by default.
    """

    rank: ClassVar[float] = 0.0

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
