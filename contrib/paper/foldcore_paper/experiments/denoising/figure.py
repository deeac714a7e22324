"""Figures 4b and 6: test error by epoch; and times by λ."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ...style import LOOKS, finish_axes, new_figure, save
from .tables import best_total_variation, medians
from .timing import FDPG, FOLDCORE_QPTH, MATCHED, QPTH

NAMES = {
    FDPG: "f-FDPG",
    MATCHED: "f-FDPG, residual near qpth's",
    QPTH: "qpth",
    FOLDCORE_QPTH: "qpth in foldcore",
}


def draw_errors(training: pd.DataFrame, baseline: pd.DataFrame, path: Path) -> Path:
    """Draw the test error by epoch, and its change from total variation's: a curve a λ, a column a method."""
    figure = new_figure(2, 2, height=2.8)
    best_weight, best = best_total_variation(baseline)
    panels = figure.subplots(2, 2, sharey="row", sharex=True)
    for column, method in enumerate((FDPG, QPTH)):
        above, below = panels[:, column]
        runs = training[training["method"] == method]
        for look, (weight, run) in zip(LOOKS, runs.groupby("lambda"), strict=False):
            change = 100 * (run["test_mse"] / run["test_mse"].iloc[0] - 1)
            for axes, values in ((above, run["test_mse"]), (below, change)):
                axes.plot(run["epoch"], values, color=look.colour, marker=look.marker,
                          linestyle=look.line, markersize=3, label=f"λ = {weight:g}")  # fmt: skip
        above.axhline(best, color="0.4", linewidth=1, label=f"total variation, λ = {best_weight:g}")
        above.set_ylim(bottom=0)
        first = method == FDPG
        finish_axes(above, title=NAMES[method], xlabel="", ylabel="test MSE" if first else "",
                    legend=not first)  # fmt: skip
        finish_axes(below, title="", xlabel="epoch", legend=False,
                    ylabel="change from total variation of the same λ (%)" if first else "")  # fmt: skip
        below.yaxis.label.set_fontsize(8)
    return save(figure, path)


def draw_times(timing: pd.DataFrame, path: Path) -> Path:
    """Draw the forward time of a batch by λ, a panel a batch size, for the learned D."""
    table = medians(timing)
    table = table[table["operator"] == "learned"]
    sizes = sorted(table["batch_size"].unique())
    figure = new_figure(len(sizes), width=3.4)
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, size in zip(panels, sizes, strict=True):
        some = table[table["batch_size"] == size]
        for look, method in zip(LOOKS, NAMES, strict=False):
            one = some[some["method"] == method]
            axes.plot(one["lambda"], one["forward_seconds"], color=look.colour, marker=look.marker,
                      linestyle=look.line, markersize=4, label=NAMES[method])  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        finish_axes(axes, title=f"batch of {size:g}", xlabel="λ", ylabel="forward pass (s)",
                    legend=size == sizes[0])  # fmt: skip
    return save(figure, path)
