"""Gurobi's parameters: checked by name, type and range, and those that foldcore's options set."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import gurobipy as gp

from foldcore import ProblemClass, ProgramStructure

from .licence import environment, unusable_reason

if TYPE_CHECKING:
    from .config import GurobiConfig

Value = int | float | str

_NAMES = {name.lower(): name for name in dir(gp.GRB.Param) if not name.startswith("_")}


def checked(parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Return the parameters under Gurobi's own spelling.

    Raises:
        ValueError: If a name is unknown, a value is of the wrong type or out of range, or the
            parameter belongs to an environment that has not started. Values are checked only where
            there is a licence.
    """
    found: dict[str, Value] = {}
    for name, value in parameters.items():
        spelling = _NAMES.get(name.lower())
        if spelling is None:
            close = difflib.get_close_matches(name.lower(), _NAMES, n=1)
            hint = f" Did you mean {_NAMES[close[0]]!r}?" if close else ""
            raise ValueError(f"Gurobi has no parameter {name!r}.{hint}")
        found[spelling] = value
    if found and unusable_reason() is None:
        with gp.Model(env=environment()) as model:
            for name, value in found.items():
                _try(model, name, value)
    return found


def _try(model: gp.Model, name: str, value: Value) -> None:
    information = model.getParamInfo(name)
    kind = information[1]
    fits = isinstance(value, str) == (kind is str) and (kind is not int or value == int(value))
    if not fits:
        raise ValueError(f"Gurobi's parameter {name!r} is of type {kind.__name__}, got {value!r}.")
    try:
        model.setParam(name, kind(value))
    except gp.GurobiError as error:
        raise ValueError(f"Gurobi's parameter {name!r} cannot be {value!r}: {error}.") from error


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
