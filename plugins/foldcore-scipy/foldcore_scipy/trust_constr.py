"""trust-constr: what scipy is told, and what its exit statuses and multipliers mean.

Source: R. Byrd, M. Hribar, J. Nocedal, "An interior point algorithm for large-scale nonlinear
programming", SIAM Journal on Optimization 9 (1999), 877-900; with equalities alone M. Lalee, J. Nocedal,
T. Plantenga, "On the implementation of an algorithm for large-scale equality constrained
optimization", SIAM Journal on Optimization 8 (1998), 682-706.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import Bounds, NonlinearConstraint, minimize

from foldcore import SampleAnswer, Status

from .config import ScipyConfig
from .evaluation import Evaluation, Floats
from .verdict import judge

_LIMIT, _STOPPED_BY_TEST = 0, 3


def run_trust_constr(evaluation: Evaluation, config: ScipyConfig, start: Floats) -> SampleAnswer:
    """Run trust-constr from a starting point.

    scipy's own test looks at the gradient of the Lagrangian and stops where the barrier parameter,
    and with it complementarity, is still large. The test here asks for all three.
    """
    evaluation.begin(start)
    tolerance = config.rtol + config.atol / evaluation.scale

    def converged(x: Floats, state: Any) -> bool:
        limit = tolerance * (1 + np.abs(state.grad).max())
        barrier = state.get("barrier_parameter", 0.0)
        return bool(max(state.optimality, state.constr_violation, barrier) <= limit)

    constraints = _constraint(evaluation)
    result = minimize(
        evaluation.objective,
        start,
        jac=evaluation.gradient,
        hess=evaluation.hessian,
        method="trust-constr",
        bounds=Bounds(evaluation.lower, evaluation.upper) if evaluation.bounded else None,
        constraints=constraints,
        callback=converged,
        options={
            "gtol": 0.0,
            "xtol": tolerance**1.5,
            "barrier_tol": tolerance,
            "maxiter": config.max_iter,
        },
    )
    return _answer(evaluation, result, tolerance)


def _constraint(evaluation: Evaluation) -> list[NonlinearConstraint]:
    if not evaluation.rows:
        return []
    below = np.full(evaluation.rows, -np.inf)
    below[: evaluation.n_equality] = 0.0
    return [
        NonlinearConstraint(
            evaluation.constraints,
            below,
            0.0,
            jac=evaluation.jacobian,
            hess=evaluation.constraint_hessian,
        )
    ]


def _answer(evaluation: Evaluation, result: Any, tolerance: float) -> SampleAnswer:
    code, message = int(result.status), f"trust-constr: {result.message}"
    x = np.clip(result.x, evaluation.lower, evaluation.upper)
    status = Status.OPTIMAL
    if code == _STOPPED_BY_TEST:
        message = "trust-constr: optimality, violation and barrier are within tolerance"
    else:
        limited = code == _LIMIT
        status, message = judge(evaluation, x, tolerance, message, limited=limited)
    return SampleAnswer(
        status, message, int(result.get("nit", 0)), x=x, **_multipliers(evaluation, result)
    )


def _multipliers(evaluation: Evaluation, result: Any) -> dict[str, Floats]:
    """Translate scipy's v: positive where an upper limit pushes, negative where a lower one does."""
    given = [np.asarray(v, dtype=np.float64) for v in result.get("v", [])]
    rows = given.pop(0) if evaluation.rows and given else np.zeros(evaluation.rows)
    bounds = given.pop(0) if evaluation.bounded and given else np.zeros(evaluation.n)
    equality, inequality = evaluation.multipliers(rows)
    bounds = bounds * evaluation.scale
    return {
        "equality": equality,
        "inequality": np.maximum(inequality, 0.0),
        "lower": np.maximum(-bounds, 0.0) * np.isfinite(evaluation.lower),
        "upper": np.maximum(bounds, 0.0) * np.isfinite(evaluation.upper),
    }
