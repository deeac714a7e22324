"""The Gurobi environment of a thread, and why there may be none."""

from __future__ import annotations

import os
import threading

import gurobipy as gp

from foldcore import PluginUnusableError

_local = threading.local()


def environment() -> gp.Env:
    """Return the silent environment of this thread, started once; starting one takes about 10 ms.

    Gurobi's environments may not be used by two threads at a time, nor outlive a fork.

    Raises:
        PluginUnusableError: If there is no licence for this version here; the message tells
            expired, made for another version, missing and unreachable apart.
    """
    cached: tuple[int, gp.Env] | None = getattr(_local, "environment", None)
    if cached is not None and cached[0] == os.getpid():
        return cached[1]
    created = gp.Env(empty=True)
    try:
        created.setParam("OutputFlag", 0)
        created.start()
    except gp.GurobiError as error:
        created.dispose()
        raise PluginUnusableError(_reason(error)) from error
    _local.environment = (os.getpid(), created)
    return created


def unusable_reason() -> str | None:
    """Return why Gurobi cannot be used here, or None."""
    try:
        environment()
    except PluginUnusableError as error:
        return str(error)
    return None


def _reason(error: gp.GurobiError) -> str:
    text = str(error)
    lowered = text.lower()
    if error.errno != gp.GRB.Error.NO_LICENSE:
        return f"the Gurobi licence cannot be reached (error {error.errno}: {text})"
    if "license expired" in lowered:
        return f"the Gurobi licence has expired ({text}); renew it, or upgrade gurobipy"
    if "version number" in lowered:
        return f"the Gurobi licence is for another version ({text})"
    return f"there is no valid Gurobi licence here ({text})"
