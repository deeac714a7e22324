"""The training curves as a PNG that survives printing in grey and colour blindness."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .experiment import CLOSED_FORM, FOLDED, SOFTMAX, Results
from .training import EpochRecord


class Style(NamedTuple):
    """How a run is drawn; colours are of the Okabe-Ito palette, markers tell the runs apart too."""

    colour: str
    marker: str


STYLES = {FOLDED: Style("#0072B2", "o"), SOFTMAX: Style("#D55E00", "s")}
_EXACT_COLOUR = "black"


def save_curves(results: Results, k: int, path: Path) -> None:
    """Draw loss and accuracy by epoch; the folder of ``path`` is made if it is missing."""
    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    _draw_losses(loss_axes, results, k)
    _draw_accuracies(accuracy_axes, results, k)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.85", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _draw_losses(axes: Axes, results: Results, k: int) -> None:
    names = {
        FOLDED: f"{FOLDED}: $-\\log x_y$, $\\Sigma x = {k}$",
        SOFTMAX: f"{SOFTMAX} $-\\log p_y$",
    }
    for name, label in names.items():
        losses = [record.loss for record in results.records[name]]
        _draw(axes, losses, STYLES[name], label)
    exact = [record.loss for record in results.records[CLOSED_FORM]]
    axes.plot(
        _epochs(results.records[CLOSED_FORM]), exact, linestyle="none", marker="x", markersize=7,
        color=_EXACT_COLOUR, label=CLOSED_FORM,
    )  # fmt: skip
    axes.set_title("Training loss (noisy labels; the two losses differ in scale)", fontsize=10)
    axes.set_ylabel("mean loss")
    axes.set_ylim(bottom=0)


def _draw_accuracies(axes: Axes, results: Results, k: int) -> None:
    for name, style in STYLES.items():
        records = results.records[name]
        _draw(axes, [record.top_1 for record in records], style, f"{name}, top-1")
        _draw(axes, [record.top_k for record in records], style, f"{name}, top-{k}", dashed=True)
    axes.set_title("Test accuracy (clean labels)", fontsize=10)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def _draw(
    axes: Axes, values: list[float], style: Style, label: str, *, dashed: bool = False
) -> None:
    axes.plot(
        range(1, len(values) + 1), values, color=style.colour, marker=style.marker, markersize=4,
        markerfacecolor="white" if dashed else style.colour, linewidth=1.4,
        linestyle="--" if dashed else "-", label=label,
    )  # fmt: skip


def _epochs(records: list[EpochRecord]) -> range:
    return range(1, len(records) + 1)
