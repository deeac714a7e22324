"""What a method that stopped without converging has found."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, minimize

from foldcore import Status

from .evaluation import Evaluation, Floats

_ACCEPTED = 1e-6
"""Methods that see rounding rather than descent stop near this KKT residual at a solution."""
_CLEAR = 1e-4
"""Violation, relative to 1 + ‖x‖∞, that slow convergence to a feasible point does not explain."""
_MOVE = 1e-2
"""Size of the move off a point whose derivatives may vanish, relative to 1 + ‖x‖∞."""


def judge(
    evaluation: Evaluation, x: Floats, tolerance: float, message: str, *, limited: bool
) -> tuple[Status, str]:
    """Return the status of a point at which a method gave up, and why.

    A method stops at solutions, where nothing but rounding is left to improve, at problems without
    a feasible point, at its limit, and where it breaks down; the problem's own data tell these apart.

    Args:
        limited: It stopped at its limit of iterations.
    """
    otherwise = Status.ITERATION_LIMIT if limited else Status.NUMERICAL
    if evaluation.violation(x) > _CLEAR:
        least = _least_violated(evaluation, x)
        if least is not None and evaluation.violation(least) > _CLEAR:
            return Status.INFEASIBLE, f"{message}; no nearby point is feasible"
        return otherwise, f"{message}; at a point that is not feasible"
    if limited:
        return otherwise, message
    residual = evaluation.kkt_residual(x)
    accepted = residual <= max(tolerance, _ACCEPTED)
    return (
        Status.OPTIMAL if accepted else otherwise,
        f"{message}; KKT residual {residual:.1e}",
    )


def _least_violated(evaluation: Evaluation, x: Floats) -> Floats | None:
    """Return a local minimum of ½‖violations‖² within the bounds; None if none is found.

    If that is not feasible, a convex program has no feasible point, another one has none nearby.
    The search starts beside x, for x may be a stationary point that is no minimum.
    """
    noise = np.random.default_rng(0).standard_normal(evaluation.n)
    start = x + _MOVE * (1 + np.abs(x).max()) * noise

    def value(point: Floats) -> float:
        return float((evaluation.violations(point) ** 2).sum() / 2)

    def slope(point: Floats) -> Floats:
        return evaluation.jacobian(point).T @ evaluation.violations(point)

    result = minimize(
        value,
        np.clip(start, evaluation.lower, evaluation.upper),
        jac=slope,
        method="L-BFGS-B",
        bounds=Bounds(evaluation.lower, evaluation.upper),
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
    )
    return result.x if result.success else None
