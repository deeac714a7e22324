"""SLSQP: what scipy is told, and what its exit modes mean.

Source: D. Kraft, "A software package for sequential quadratic programming", DFVLR-FB 88-28 (1988).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import Bounds, minimize

from foldcore import SampleAnswer, Status

from .config import ScipyConfig
from .evaluation import Evaluation, Floats
from .verdict import judge

_CONVERGED, _LIMIT = 0, 9


def run_slsqp(evaluation: Evaluation, config: ScipyConfig, start: Floats) -> SampleAnswer:
    """Run SLSQP from a starting point.

    Its test of convergence, change of f or predicted decrease below ``ftol``, is of second order
    in the distance to the solution: ``ftol`` is the square of the first-order tolerance.
    """
    evaluation.begin(start)
    tolerance = config.rtol + config.atol / evaluation.scale
    bounds = Bounds(evaluation.lower, evaluation.upper) if evaluation.bounded else None
    result = minimize(
        evaluation.objective,
        start,
        jac=evaluation.gradient,
        method="SLSQP",
        bounds=bounds,
        constraints=_constraints(evaluation),
        options={"ftol": tolerance**2, "maxiter": config.max_iter},
    )
    return _answer(evaluation, result, tolerance)


def _constraints(evaluation: Evaluation) -> list[dict[str, Any]]:
    p = evaluation.n_equality
    constraints: list[dict[str, Any]] = []
    if p:
        constraints.append(
            {
                "type": "eq",
                "fun": lambda x: evaluation.constraints(x)[:p],
                "jac": lambda x: evaluation.jacobian(x)[:p],
            }
        )
    if evaluation.rows > p:
        constraints.append(
            {
                "type": "ineq",
                "fun": lambda x: -evaluation.constraints(x)[p:],
                "jac": lambda x: -evaluation.jacobian(x)[p:],
            }
        )
    return constraints


def _answer(evaluation: Evaluation, result: Any, tolerance: float) -> SampleAnswer:
    mode, message = int(result.status), f"slsqp: {result.message}"
    x = np.clip(result.x, evaluation.lower, evaluation.upper)
    status = Status.OPTIMAL
    if mode != _CONVERGED:
        limited = mode == _LIMIT
        status, message = judge(evaluation, x, tolerance, message, limited=limited)
    return SampleAnswer(status, message, int(result.get("nit", 0)), x=x)
