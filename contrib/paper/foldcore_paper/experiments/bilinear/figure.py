"""Figure 4a: regret of each objective at the end, and its mean through training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from ...style import LOOKS, finish_axes, new_figure, save
from .tables import final_regret


def draw_figures(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw ``bilinear-regret.png`` into ``folder`` and return its path."""
    figure = new_figure(2)
    left, right = figure.subplots(1, 2)
    methods = list(dict.fromkeys(results["method"]))
    _objectives(left, results, methods)
    _epochs(right, results, methods)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False, fontsize=8)  # fmt: skip
    return [save(figure, folder / "bilinear-regret.png")]


def _objectives(axes: Axes, results: pd.DataFrame, methods: list[str]) -> None:
    table = final_regret(results)
    for method, look in zip(methods, LOOKS, strict=False):
        positions = range(len(table))
        axes.plot(positions, table[method], look.marker, color=look.colour, label=method,
                  markersize=4.5)  # fmt: skip
    axes.set_xticks(range(len(table)), [str(seed) for seed in table.index])
    axes.set_ylim(bottom=0)
    finish_axes(axes, title="After the last epoch", xlabel="objective (seed of Q)",
                ylabel="mean test regret", legend=False)  # fmt: skip


def _epochs(axes: Axes, results: pd.DataFrame, methods: list[str]) -> None:
    for method, look in zip(methods, LOOKS, strict=False):
        regret = results[results["method"] == method].groupby("epoch")["test_regret"]
        mean, error = regret.mean(), regret.sem()
        if len(mean) == 1:
            axes.axhline(float(mean.iloc[0]), color=look.colour, linestyle=look.line, linewidth=1)
            continue
        axes.errorbar(mean.index, mean, error, color=look.colour, marker=look.marker,
                      linestyle=look.line, markersize=4.5, linewidth=1.2, capsize=2)  # fmt: skip
    axes.set_ylim(bottom=0)
    finish_axes(axes, title="Mean and standard error over objectives", xlabel="epoch",
                ylabel="mean test regret", legend=False)  # fmt: skip
