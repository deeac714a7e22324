"""The backward passes that are compared, each behind the same forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import foldcore as fc

from .cone import ConeProgram
from .settings import ConeSettings, Inner, Method
from .top_k import BlackBox, TopK, top_k_problem, values_of, with_direct_derivative

INNER: dict[Inner, dict[str, Any]] = {
    # qpth is right to about 1e-6 only, which the default for inner folds, 1e-7, would warn of.
    "qpth": {"solver": "qpth", "kkt": {"atol": 1e-5}},
    "newton": {"solver": "osqp", "rule": "newton", "adjoint": "direct"},
}


def differentiable_top_k(
    method: Method,
    solver: BlackBox,
    n: int,
    k: int,
    temperature: float,
    *,
    inner: Inner,
    cone: ConeSettings,
) -> TopK:
    """Return x*(c) with the value of ``solver`` and the backward pass of ``method``.

    Args:
        method: f-PGDa, f-SQP, cvxpylayers with the tolerances of ``cone`` or with its defaults, or
            direct, the derivative in closed form.
        solver: The shared forward pass.
        n: Number of classes.
        k: Sum of x.
        temperature: τ.
        inner: What differentiates the inner QPs of f-PGDa and f-SQP.
        cone: Settings of cvxpylayers.
    """
    problem = top_k_problem(n, k, temperature)
    if method in ("f-PGDa", "f-SQP"):
        return _folded(problem, solver, _rule(method, inner, temperature))
    values = values_of(problem, solver)
    if method == "direct":
        return with_direct_derivative(values, k, temperature)
    own = cone if method == "cvxpylayers" else None
    return _cone_backward(ConeProgram(n, k, temperature, own), values)


def _rule(method: Method, inner: Inner, temperature: float) -> dict[str, Any]:
    if method == "f-SQP":
        return {"kind": "sqp", "inner": INNER[inner]}
    # No eigenvalue of the Hessian τ/x is below τ, so that this step spreads the eigenvalues that
    # gmres sees no further than any other.
    step = 1 / temperature
    return {"kind": "pgd", "step_size": step, "projection": "inner", "inner": INNER[inner]}


def _folded(problem: fc.Problem, solver: BlackBox, rule: dict[str, Any]) -> TopK:
    layer = fc.build({"problem": problem, "solver": solver, "rule": rule, "adjoint": "gmres"})

    def folded(c: Tensor) -> Tensor:
        x: Tensor = layer(c=c)
        return x

    return folded


def _cone_backward(program: ConeProgram, values: TopK) -> TopK:
    """cvxpylayers differentiates at the point it finds itself; of that pass only the gradient is kept.

    The added difference is exactly 0, so that the value is bitwise the shared one.
    """

    def shared(c: Tensor) -> Tensor:
        own = program(c)
        return values(c) + (own - own.detach())

    return shared
