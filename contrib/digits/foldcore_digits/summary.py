"""What the demo prints at its end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from .experiment import CHECKED_SAMPLES, FOLDED, Results


def print_summary(console: Console, results: Results, k: int, figure: Path) -> None:
    """Print accuracies, the split of the time, residuals, the gradient's error and the figure's path."""
    console.print(_accuracies(results, k))
    console.print(_times(results))
    console.print(_checks(results))
    console.print(f"Training curves: {figure}", soft_wrap=True, highlight=False)


def _accuracies(results: Results, k: int) -> Table:
    table = Table(title="Accuracy on clean test labels", title_justify="left")
    table.add_column("trained with")
    for column in ("top-1", f"top-{k}", "training time"):
        table.add_column(column, justify="right")
    for name, records in results.records.items():
        last = records[-1]
        table.add_row(
            name, f"{last.top_1:.1%}", f"{last.top_k:.1%}", f"{results.seconds[name]:.1f} s"
        )
    return table


def _times(results: Results) -> Table:
    meter, total = results.meter, results.seconds[FOLDED]
    parts = {
        "solve (black box, certificate)": meter.solve_seconds,
        "fold (one step of the rule, inner QP)": meter.fold_seconds,
        "adjoint (gmres)": meter.adjoint_seconds,
    }
    parts["all else (network, Adam, evaluation)"] = total - sum(parts.values())
    table = Table(title="Where the folded training's time goes", title_justify="left")
    table.add_column("part")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for part, seconds in parts.items():
        table.add_row(part, f"{seconds:.1f}", f"{seconds / total:.0%}")
    return table


def _checks(results: Results) -> Table:
    meter = results.meter
    table = Table(title="Checks of the folded layer", title_justify="left")
    table.add_column("quantity")
    table.add_column("largest", justify="right")
    table.add_column("measured")
    for quantity, value, measured in (
        ("fixed-point residual", meter.fixed_point_residual, "‖U(x) - x‖∞ / step, all steps"),
        ("adjoint residual", meter.adjoint_residual, "‖g - (I - Φᵀ)v‖₂, all steps"),
        (
            "relative gradient error",
            results.gradient_error,
            f"central differences, {CHECKED_SAMPLES} samples",
        ),
        ("|loss - closed form|", results.loss_difference, "means of an epoch, all epochs"),
    ):
        table.add_row(quantity, f"{value:.1e}", measured)
    table.caption = f"gmres used at most {meter.adjoint_products} products with Φᵀ for a sample."
    table.caption_justify = "left"
    return table
