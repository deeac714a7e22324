"""The statistics as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from .statistics import FoldStatistics


def as_table(folds: Mapping[str, FoldStatistics]) -> Table:
    """Return one row per fold, the outermost first."""
    table = Table(title="foldcore", title_justify="left", box=None)
    table.add_column("fold")
    for column in ("samples", "failed", "solve", "fold", "adjoint", "residual", "products",
                   "unconverged"):  # fmt: skip
        table.add_column(column, justify="right")
    for path, one in sorted(folds.items()):
        failed = ", ".join(f"{count} {status.value}" for status, count in one.failures.items())
        products = one.products / one.adjoints if one.adjoints else 0.0
        table.add_row(
            path or "layer",
            str(one.samples),
            failed or "0",
            f"{one.solve_seconds:.2f} s",
            f"{one.fold_seconds:.2f} s",
            f"{one.adjoint_seconds:.2f} s",
            f"{one.largest_residual:.1e}",
            f"{products:.1f}",
            str(one.unconverged),
        )
    return table
