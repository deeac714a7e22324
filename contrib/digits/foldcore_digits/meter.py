"""A listener on foldcore's hooks: where the time goes, and the largest residuals."""

from __future__ import annotations

import math

from torch import Tensor

from foldcore import AdjointSolution, Solution
from foldcore.hooks import hookimpl

OUTER = ""
"""Path of the outermost fold. The inner one's work is part of the outer one's fold and adjoint."""


class FoldMeter:
    """Adds up what the outermost fold reports. Use it with :func:`foldcore.hooks.listening`.

    Attributes:
        solve_seconds: Time in the black box and the check of its answers, in seconds.
        fold_seconds: Time in the one recorded step of the rule, its inner QP included, in seconds.
        adjoint_seconds: Time in the adjoint solver, in seconds.
        fixed_point_residual: Largest ‖U(z) - z‖∞ / step over all samples.
        adjoint_residual: Largest ‖g - (I - Φᵀ)v‖₂ over all samples, absolute.
        adjoint_products: Largest number of products with Φᵀ for one sample (count).
        samples: Solved samples (count).
    """

    def __init__(self) -> None:
        self.solve_seconds = self.fold_seconds = self.adjoint_seconds = 0.0
        self.fixed_point_residual = self.adjoint_residual = 0.0
        self.adjoint_products = 0
        self.samples = 0

    @hookimpl
    def foldcore_solve_finished(self, path: str, solution: Solution, seconds: float) -> None:
        if path == OUTER:
            self.solve_seconds += seconds
            self.samples += len(solution.status)

    @hookimpl
    def foldcore_residual_checked(self, path: str, residual: Tensor, seconds: float) -> None:
        if path == OUTER:
            self.fold_seconds += seconds
            self.fixed_point_residual = _worse(self.fixed_point_residual, residual)

    @hookimpl
    def foldcore_adjoint_finished(
        self, path: str, adjoint: AdjointSolution, seconds: float
    ) -> None:
        if path == OUTER:
            self.adjoint_seconds += seconds
            self.adjoint_residual = _worse(self.adjoint_residual, adjoint.residual)
            self.adjoint_products = max(self.adjoint_products, int(adjoint.iterations.max()))


def _worse(largest: float, residuals: Tensor) -> float:
    # Python's max would drop a NaN, which is the worst of all.
    found = float(residuals.max())
    return largest if math.isnan(largest) or found <= largest else found
