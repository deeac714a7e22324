"""The listener that installing the package brings, for runs whose code shall not be touched."""

from __future__ import annotations

import atexit
import os

from torch.utils.tensorboard.writer import SummaryWriter

from .logger import MetricsLogger

VARIABLE = "FOLDCORE_TENSORBOARD"
"""Environment variable: the folder that metrics are written to."""


def listener() -> MetricsLogger | None:
    """Return a logger for the folder that the environment names, or None where it names none.

    The variable is read when the process first solves.
    """
    folder = os.environ.get(VARIABLE, "")
    if not folder:
        return None
    writer = SummaryWriter(folder)
    atexit.register(writer.close)
    return MetricsLogger(writer)
