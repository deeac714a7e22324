"""display(): the live table, for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from foldcore.hooks import listening

from .statistics import Statistics
from .table import as_table


@contextmanager
def display(console: Console | None = None, *, refreshes: float = 4.0) -> Iterator[Statistics]:
    """Show what the folds do while the block runs; the last table stays.

    Args:
        console: Where to show; by default standard error, so that results can be piped.
        refreshes: Redraws per second.

    Yields:
        The statistics, for reading their numbers.
    """
    statistics = Statistics()
    console = console or Console(stderr=True)
    with (
        Live(
            get_renderable=lambda: as_table(statistics.snapshot()),
            console=console,
            refresh_per_second=refreshes,
        ),
        listening(statistics),
    ):
        yield statistics
