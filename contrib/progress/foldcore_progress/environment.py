"""The listener that installing the package brings, for runs whose code shall not be touched."""

from __future__ import annotations

import atexit
import os

from rich.console import Console

from .statistics import Statistics
from .table import as_table

VARIABLE = "FOLDCORE_PROGRESS"
"""Environment variable: any value but "" and "0" prints the statistics when the process ends."""


def listener() -> Statistics | None:
    """Return a listener that prints its table at the end, or None where nobody asked for it.

    The variable is read when the process first solves.
    """
    if os.environ.get(VARIABLE, "") in ("", "0"):
        return None
    statistics = Statistics()
    atexit.register(lambda: Console(stderr=True).print(as_table(statistics.snapshot())))
    return statistics
