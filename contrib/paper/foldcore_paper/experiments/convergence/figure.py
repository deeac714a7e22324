"""The figure of the convergence experiment: four curves, as in the paper's Figure 3."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...style import LOOKS, finish_axes, new_figure, save

FLOOR = 1e-17
"""Errors of exactly zero are drawn here."""
CURVES = (
    ("random", "forward_error", "forward, from a random point"),
    ("random", "backward_error", "backward, from a random point"),
    ("solution", "backward_error", "backward, from x*"),
    ("solution", "forward_error", "forward, from x*"),
)


def draw_errors(results: pd.DataFrame, path: Path) -> Path:
    """Draw the geometric mean over instances of each error, its range, and the slope of Theorem 1."""
    figure = new_figure(width=5.6, height=3.8)
    axes = figure.subplots()
    for look, (start, column, label) in zip(LOOKS, CURVES, strict=False):
        table = results[results["start"] == start].pivot(
            index="iteration", columns="seed", values=column
        )
        logs = np.log10(table.clip(lower=FLOOR))
        axes.semilogy(
            table.index, 10 ** logs.mean(axis=1), color=look.colour, linestyle=look.line,
            marker=look.marker, markersize=4, markevery=max(1, len(table) // 10), label=label,
        )  # fmt: skip
        low, high = 10 ** logs.min(axis=1), 10 ** logs.max(axis=1)
        axes.fill_between(table.index, low, high, color=look.colour, alpha=0.15, linewidth=0)
    _draw_slope(axes, results)
    finish_axes(
        axes, title="Unfolded projected gradient descent, smooth top-k", xlabel="steps K on the graph",
        ylabel="relative L1 error",
    )  # fmt: skip
    return save(figure, path)


def _draw_slope(axes: Axes, results: pd.DataFrame) -> None:
    rate = -float(np.log(results.groupby("seed")["spectral_radius"].first()).mean())
    known = results[results["start"] == "solution"].groupby("iteration")["backward_error"]
    curve = known.apply(lambda errors: math.exp(float(np.log(errors.clip(lower=FLOOR)).mean())))
    middle = curve.index[len(curve) // 2]
    line = curve[middle] * np.exp(-rate * (curve.index - middle)) / 5
    axes.semilogy(curve.index, line, color="0.4", linewidth=1, label="slope of ρ(Φ)ᴷ")
