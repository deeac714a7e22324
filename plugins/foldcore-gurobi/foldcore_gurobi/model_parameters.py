"""The parameters that a model is given: those that foldcore's options set, then the user's own."""

from __future__ import annotations

from foldcore import ProblemClass, ProgramStructure

from .config import GurobiConfig
from .parameters import Value


def parameters_for(
    config: GurobiConfig, structure: ProgramStructure, *, single_thread: bool
) -> dict[str, Value]:
    """Return Gurobi's parameters for a structure; the user's own come last and win."""
    tolerance = min(max(config.atol, 1e-9), 1e-2)
    found: dict[str, Value] = {
        "FeasibilityTol": tolerance,
        "OptimalityTol": tolerance,
        "BarConvTol": min(config.rtol, 1.0),
        # Below 1e-9 Gurobi calls many of its answers suboptimal (a quarter of random QCQPs at 1e-11).
        "BarQCPConvTol": min(max(config.rtol, 1e-9), 1.0),
        "MIPGap": config.mip_gap,
        "BarIterLimit": config.max_iter,
        "NodeLimit": config.max_iter,
        "Threads": 1 if single_thread else config.threads,
    }
    if structure.convex is not False:
        found["IterationLimit"] = config.max_iter
    if structure.problem_class is ProblemClass.QP:
        found["Method"] = 1  # the barrier method finds the active set to 1e-6, simplex to rounding
    if structure.problem_class is ProblemClass.QCQP:
        found["QCPDual"] = 1
    if config.time_limit is not None:
        found["TimeLimit"] = config.time_limit
    return {**found, **config.parameters}
