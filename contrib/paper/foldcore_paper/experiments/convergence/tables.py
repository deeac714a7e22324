"""Tables of the convergence experiment."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

THRESHOLDS = (1e-1, 1e-2, 1e-4, 1e-6)
FIT = (1e-11, 1e-5)
"""Rates are fitted where the error lies in between: settled, and well above rounding."""
PASSES = (("forward", "forward_error"), ("backward", "backward_error"))
STARTS = {"solution": "x*", "random": "random"}


def curves(results: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Return (start, pass, table of instances by iteration) of every curve but the trivial one.

    From x* the forward error is rounding; it has neither a rate nor a threshold to reach.
    """
    found = []
    for start in STARTS:
        part = results[results["start"] == start]
        for name, column in PASSES:
            if (start, name) != ("solution", "forward"):
                table = part.pivot(index="iteration", columns="seed", values=column)
                found.append((start, name, table))
    return found


def steps_to_reach(results: pd.DataFrame) -> pd.DataFrame:
    """Return, per curve, the median number of steps from which the error stays below thresholds."""
    rows = []
    for start, name, table in curves(results):
        row: dict[str, object] = {"start": STARTS[start], "pass": name}
        for threshold in THRESHOLDS:
            steps = [_crossing(table[seed], threshold) for seed in table]
            row[f"{threshold:.0e}"] = float(np.median(steps))
        rows.append(row)
    return pd.DataFrame(rows)


def rates(results: pd.DataFrame) -> pd.DataFrame:
    """Return, per curve, quartiles of the fitted rate in units of -log ρ(Φ), Theorem 1's rate."""
    radii = results.groupby("seed")["spectral_radius"].first()
    rows = []
    for start, name, table in curves(results):
        ratios = [fitted_rate(table[seed]) / -math.log(radii[seed]) for seed in table]
        low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        rows.append(
            {"start": STARTS[start], "pass": name, "lower quartile": float(low),
             "median": float(median), "upper quartile": float(high)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def deviations(results: pd.DataFrame) -> pd.DataFrame:
    """Return how far fixed-point unfolding is from the series, counted in both ways."""
    known = results[results["start"] == "solution"]
    named = {"series_previous": "j = K - 1", "series_same": "j = K, as (17a) counts"}
    return pd.DataFrame(
        [{"series": name, "relative deviation": float(known[column].max())} for column, name in named.items()]
    )  # fmt: skip


def fitted_rate(errors: pd.Series) -> float:
    """Return the slope of -log(error) per iteration, fitted within ``FIT``; NaN if it is not reached."""
    low, high = FIT
    settled = errors[errors < high]
    kept = settled[settled > low]
    if len(kept) < 2:
        return math.nan
    return -float(np.polyfit(kept.index.to_numpy(dtype=float), np.log(kept.to_numpy()), 1)[0])


def _crossing(errors: pd.Series, threshold: float) -> float:
    """Return where the error last falls below a threshold, log-linearly between iterations.

    Infinity where it never does: a median then still tells that most instances do not get there.
    """
    above = errors[errors > threshold]
    if above.empty:
        return float(errors.index[0])
    rest = errors[errors.index > above.index[-1]]
    if rest.empty:
        return math.inf
    left, right = math.log(above.iloc[-1]), math.log(max(rest.iloc[0], 1e-300))
    share = (left - math.log(threshold)) / (left - right)
    return float(above.index[-1] + share * (rest.index[0] - above.index[-1]))
