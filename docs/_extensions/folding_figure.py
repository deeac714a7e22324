"""The figure of unrolling, unfolding, fixed-point unfolding and folding."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FORWARD, BACKWARD, OFF_GRAPH = "#0072B2", "#D55E00", "#888888"


class Row(NamedTuple):
    """One way to differentiate: its name, what it records, and its boxes from left to right."""

    name: str
    note: str
    boxes: tuple[tuple[str, bool], ...]
    loops: bool = False


ROWS = (
    Row("unrolling", "every operation of every iteration is recorded, inner problems too",
        (("x₀", True), ("U", True), ("U", True), ("…", True), ("U", True))),
    Row("unfolding", "the outer loop is recorded, inner problems are differentiated analytically",
        (("x₀", True), ("U", True), ("U", True), ("…", True), ("U", True))),
    Row("fixed-point unfolding", "the solver's loop is not recorded; K recorded steps stay at x*",
        (("solver", False), ("x*", False), ("U", True), ("…", True), ("U", True))),
    Row("folding", "one recorded step; its transposed linear system is solved at x*",
        (("solver", False), ("x*", False), ("U", True)), True),
)  # fmt: skip


def draw_folding(path: Path) -> None:
    """Write the figure as SVG; the same drawing gives the same file."""
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(-0.4, 9.6)
    axes.set_ylim(-0.9, 4 * len(ROWS) - 1.0)
    for index, row in enumerate(ROWS):
        _draw_row(axes, row, 4.0 * (len(ROWS) - 1 - index))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None}, transparent=False)


def _draw_row(axes: Axes, row: Row, y: float) -> None:
    axes.text(-0.3, y + 1.9, row.name, fontsize=11, fontweight="bold")
    axes.text(-0.3, y + 1.3, row.note, fontsize=9)
    for column, (label, recorded) in enumerate(row.boxes):
        _draw_box(axes, 2.0 * column, y, label, recorded)
        if column:
            colour = FORWARD if recorded else OFF_GRAPH
            _draw_arrow(axes, 2.0 * column - 0.9, 2.0 * column - 0.1, y + 0.12, colour)
            if recorded and row.boxes[column - 1][1]:
                _draw_arrow(axes, 2.0 * column - 0.1, 2.0 * column - 0.9, y - 0.25, BACKWARD)
    if row.loops:
        end = 2.0 * (len(row.boxes) - 1)
        axes.add_patch(
            FancyArrowPatch(
                (end + 1.02, y + 0.35),
                (end + 1.02, y - 0.35),
                connectionstyle="arc3,rad=-2.4",
                arrowstyle="-|>",
                mutation_scale=11,
                color=BACKWARD,
                linewidth=1.5,
                shrinkA=0,
                shrinkB=0,
            )
        )
        axes.text(end + 2.0, y, "(I − Φᵀ) v = g", fontsize=11, color=BACKWARD, va="center")


def _draw_box(axes: Axes, x: float, y: float, label: str, recorded: bool) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y - 0.5),
            1.0,
            1.0,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor="#E8F1F8" if recorded else "#F4F4F4",
            edgecolor=FORWARD if recorded else OFF_GRAPH,
            linestyle="-" if recorded else "--",
        )
    )
    axes.text(x + 0.5, y, label, ha="center", va="center", fontsize=9 if len(label) > 3 else 12)


def _draw_arrow(axes: Axes, start: float, end: float, y: float, colour: str) -> None:
    axes.add_patch(
        FancyArrowPatch(
            (start, y), (end, y), arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=1.5
        )
    )
