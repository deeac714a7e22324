"""Gurobi's parameters by name: checked by spelling, type and range."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import gurobipy as gp

from .licence import environment, unusable_reason

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
