"""One look for all figures: readable in print, in grey and by colour-blind readers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Look(NamedTuple):
    """Colour (Okabe-Ito), marker and dash of one curve: each alone tells curves apart."""

    colour: str
    marker: str
    line: str


LOOKS = (
    Look("#0072B2", "o", "-"),
    Look("#D55E00", "s", "--"),
    Look("#009E73", "^", "-."),
    Look("#CC79A7", "D", ":"),
    Look("#E69F00", "v", "-"),
    Look("#56B4E9", "P", "--"),
    Look("#000000", "x", "-."),
)


def new_figure(
    columns: int = 1, rows: int = 1, *, width: float = 4.4, height: float = 3.4
) -> Figure:
    """Return a figure for ``rows`` x ``columns`` axes of the given size in inches each."""
    figure = Figure(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish_axes(axes: Axes, *, title: str, xlabel: str, ylabel: str, legend: bool = True) -> None:
    """Give axes their words, a light grid and no box."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color="0.88", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path
