"""The figure of the step-size experiment: products above, gradient error below, by step size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ...style import LOOKS, Look, finish_axes, new_figure, save
from .problems import TITLES

TICKS = (0.03, 0.1, 0.3, 1.0, 3.0)
CEILING = 1e12
"""Errors beyond, and those that are not finite, are drawn here."""


def draw_steps(results: pd.DataFrame, path: Path) -> Path:
    """Draw, per problem, mean and range over instances against α, with foldcore's choices marked."""
    names = list(results["problem"].unique())
    figure = new_figure(columns=len(names), rows=2, width=3.1, height=2.4)
    panels = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for column, name in enumerate(names):
        table = results[results["problem"] == name]
        _draw_products(panels[0][column], table, TITLES[name], first=column == 0)
        _draw_errors(panels[1][column], table, first=column == 0)
    return save(figure, path)


def _draw_products(axes: Axes, table: pd.DataFrame, title: str, *, first: bool) -> None:
    grid = table[table["choice"] == "grid"]
    for look, kind in zip(LOOKS, ("lfpi", "gmres"), strict=False):
        kept = grid[grid[f"{kind}_converged"]]
        # A mean over the instances that happen to converge would flatter steps near the limit.
        everywhere = (
            kept.groupby("relative_step")["seed"].transform("size") == grid["seed"].nunique()
        )
        _draw_spread(axes, kept[everywhere], f"{kind}_products", look, kind)
    for look, choice in zip(LOOKS[2:], ("default", "auto"), strict=False):
        part = table[(table["choice"] == choice) & table["lfpi_converged"]]
        axes.loglog(
            part["relative_step"], part["lfpi_products"], color=look.colour, marker=look.marker,
            linestyle="", markersize=6, label=f"lfpi, step_size: {_option(choice)}", zorder=3,
        )  # fmt: skip
    finish_axes(axes, title=title, xlabel="", ylabel="products" if first else "", legend=first)


def _draw_errors(axes: Axes, table: pd.DataFrame, *, first: bool) -> None:
    grid = table[table["choice"] == "grid"]
    for look, (column, label) in zip(
        (LOOKS[3], LOOKS[0]),
        (("series_error", "K products, unchecked"), ("lfpi_error", "lfpi, converged")),
        strict=True,
    ):
        part = grid if column == "series_error" else grid[grid["lfpi_converged"]]
        drawn = part.assign(**{column: part[column].fillna(np.inf).clip(1e-17, CEILING)})
        _draw_spread(axes, drawn, column, look, label)
    axes.axvline(1.0, color="0.5", linewidth=0.8)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    finish_axes(
        axes, title="", xlabel="α / α of step_size: auto",
        ylabel="relative gradient error" if first else "", legend=first,
    )  # fmt: skip


def _draw_spread(axes: Axes, part: pd.DataFrame, column: str, look: Look, label: str) -> None:
    logs = np.log10(part.set_index("relative_step")[column].astype(float)).groupby("relative_step")
    middle = 10 ** logs.mean()
    colour, marker, line = look
    axes.loglog(
        middle.index,
        middle,
        color=colour,
        linestyle=line,
        marker=marker,
        markersize=3.5,
        label=label,
    )
    axes.fill_between(
        middle.index, 10 ** logs.min(), 10 ** logs.max(), color=colour, alpha=0.15, linewidth=0
    )


def _option(choice: str) -> str:
    return "none (1/L)" if choice == "default" else choice
