"""Figures of the portfolio experiment: regret by epoch as in Figure 4(c), and errors of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import ScalarFormatter

from ...style import LOOKS, finish_axes, new_figure, save
from .tables import ACCURACY, TRAINING

FLOOR = 1e-16
"""Errors of exactly zero are drawn here."""


def draw_regret(results: pd.DataFrame, path: Path) -> Path:
    """Draw the test regret by epoch, mean and standard error over seeds, one axes a degree."""
    training = results[results["part"] == TRAINING]
    degrees = sorted(training["degree"].unique())
    figure = new_figure(columns=len(degrees), width=3.2, height=3.2)
    grid = figure.subplots(1, len(degrees), squeeze=False)[0]
    methods = sorted(training["method"].unique())
    for axes, degree in zip(grid, degrees, strict=True):
        for look, method in zip(LOOKS, methods, strict=False):
            one = training[(training["degree"] == degree) & (training["method"] == method)]
            found = one.groupby("epoch")["regret_percent"]
            mean, error = found.mean(), found.sem().fillna(0.0)
            axes.plot(mean.index, mean, color=look.colour, linestyle=look.line, marker=look.marker,
                      markersize=3.5, label=method)  # fmt: skip
            axes.fill_between(
                mean.index, mean - error, mean + error, color=look.colour, alpha=0.15, linewidth=0
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        finish_axes(
            axes, title=f"degree {int(degree)}", xlabel="epoch", ylabel="test regret, percent",
            legend=degree == degrees[-1],
        )  # fmt: skip
    return save(figure, path)


def draw_accuracy(results: pd.DataFrame, path: Path) -> Path:
    """Draw the distribution of relative errors over samples, solution and gradient."""
    accuracy = results[results["part"] == ACCURACY]
    methods = list(dict.fromkeys(accuracy["method"]))
    figure = new_figure(columns=2, width=5.2, height=0.6 + 0.27 * len(methods))
    grid = figure.subplots(1, 2, sharey=True)
    columns = (
        ("x_error", "relative error of x*"),
        ("gradient_error", "relative error of the gradient"),
    )
    for axes, (column, label) in zip(grid, columns, strict=True):
        for row, method in enumerate(methods):
            look = LOOKS[0 if method.startswith("cvxpylayers") else 2]
            found = accuracy.loc[accuracy["method"] == method, column].dropna()
            if found.empty:
                continue
            low, middle, high = np.quantile(found.clip(lower=FLOOR), (0.0, 0.5, 1.0))
            axes.plot([low, high], [row, row], color=look.colour, linewidth=1.2)
            axes.plot([middle], [row], color=look.colour, marker=look.marker, markersize=5)
        axes.set_xscale("log")
        axes.set_yticks(range(len(methods)), methods, fontsize=8)
        finish_axes(
            axes, title=label, xlabel="median and range over samples", ylabel="", legend=False
        )
    grid[0].invert_yaxis()
    return save(figure, path)
