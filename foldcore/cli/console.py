"""Where the command prints: results to standard output, errors to standard error."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

out = Console(highlight=False)


def print_error(message: str) -> None:
    """Print one error, unbroken, so that it can be searched for and copied."""
    Console(stderr=True, highlight=False).print(
        f"foldcore: {message}", style="red", soft_wrap=True, markup=False
    )


def new_table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table whose cells fold rather than lose text on narrow terminals."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
