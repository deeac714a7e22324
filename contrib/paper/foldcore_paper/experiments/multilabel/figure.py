"""The figures: accuracies as in Figure 7, and what tells the methods apart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.ticker import MaxNLocator

from ...style import LOOKS, finish_axes, new_figure, save
from .tables import accuracy_columns, to_reference

FLOOR = 1e-13
"""Where a difference of 0 is drawn on a logarithmic axis."""
ACCURACY, DIFFERENCE = "multilabel-accuracy.png", "multilabel-differences.png"


def draw(training: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw both figures into ``folder``; the accuracies are those of the largest k."""
    return [
        _draw_accuracies(training[training["k"] == training["k"].max()], folder / ACCURACY),
        _draw_differences(training, folder / DIFFERENCE),
    ]


def _draw_accuracies(training: pd.DataFrame, path: Path) -> Path:
    columns = accuracy_columns(training)
    figure = new_figure(2, len(columns) // 2, width=3.8, height=2.5)
    axes = figure.subplots(len(columns) // 2, 2, sharex=True).ravel()
    methods = list(training["method"].unique())
    k = int(training["k"].max())
    for axis, column in zip(axes, columns, strict=True):
        for index, method in enumerate(methods):
            mean = training[training["method"] == method].groupby("epoch")[column].mean()
            look = LOOKS[index]
            # Curves lie on each other: wide ones below, and markers at different epochs.
            axis.plot(
                mean.index, mean, color=look.colour, linestyle=look.line, marker=look.marker,
                markersize=4, linewidth=3.2 - 0.6 * index, label=method,
                markevery=(index % len(mean), len(methods)),
            )  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        title = column.removesuffix("_percent").replace("_", " ").replace("top k", f"top-{k}")
        finish_axes(
            axis, title=title.replace("top 1", "top-1"), xlabel="epoch", ylabel="accuracy (%)",
            legend=axis is axes[0],
        )  # fmt: skip
    return save(figure, path)


def _draw_differences(training: pd.DataFrame, path: Path) -> Path:
    figure = new_figure(2, 1)
    left, right = figure.subplots(1, 2)
    losses = to_reference(training, ["loss"])
    for index, method in enumerate(losses["method"].unique()):
        look = LOOKS[index]
        style = {
            "color": look.colour,
            "linestyle": look.line,
            "marker": look.marker,
            "markersize": 3,
        }
        loss = losses[losses["method"] == method].groupby("epoch")["loss"].max().clip(lower=FLOOR)
        left.plot(loss.index, loss, label=method, **style)
        gradient = training[training["method"] == method].groupby("epoch")["gradient_difference"]
        right.plot(gradient.max().index, gradient.max().clip(lower=FLOOR), label=method, **style)
    for axis, title, ylabel in (
        (left, "Training loss, to the exact derivative's run", "largest |difference|"),
        (right, "Gradient of the layer, to the exact one", "largest relative difference"),
    ):
        axis.set_yscale("log")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        finish_axes(axis, title=title, xlabel="epoch", ylabel=ylabel)
    return save(figure, path)
