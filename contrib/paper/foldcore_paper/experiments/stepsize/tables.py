"""Tables of the step-size experiment."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .problems import TITLES


def choices(results: pd.DataFrame) -> pd.DataFrame:
    """Return what the default step, ``auto`` and the best step of the grid cost, per problem.

    The grid's best step is the one with the fewest products on that instance, found by trying all.
    """
    rows = []
    for name, table in _by_problem(results):
        grid = table[(table["choice"] == "grid") & table["lfpi_converged"]]
        best = grid.loc[grid.groupby("seed")["lfpi_products"].idxmin()]
        chosen = {one: table[table["choice"] == one] for one in ("default", "auto")}
        for label, part in (*chosen.items(), ("best of the grid", best)):
            rows.append(
                {
                    "problem": TITLES[name],
                    "step": label,
                    "α": float(part["step"].median()),
                    "ρ(Φ)": float(part["spectral_radius"].median()),
                    "lfpi products": float(part["lfpi_products"].median()),
                    "gmres products": float(part["gmres_products"].median()),
                    "largest gradient error, lfpi": float(part["lfpi_error"].max()),
                }
            )
    return pd.DataFrame(rows)


def working_range(results: pd.DataFrame) -> pd.DataFrame:
    """Return, per problem, the range of steps with a converged gradient, and how equal these are."""
    rows = []
    for name, table in _by_problem(results):
        kept = table[(table["choice"] == "grid") & table["lfpi_converged"]]
        ends = kept.groupby("seed")["relative_step"].agg(["min", "max"])
        best = table[table["choice"] == "auto"]["spectral_radius"]
        limit = (2 / (1 + best)).median()  # where 1 - αλ_max reaches -1
        rows.append(
            {
                "problem": TITLES[name],
                "from (relative to auto)": float(ends["min"].median()),
                "to": float(ends["max"].median()),
                "2/(1 + ρ at auto)": float(limit),
                "products, fewest": int(kept["lfpi_products"].min()),
                "products, most": int(kept["lfpi_products"].max()),
                "largest gradient error": float(kept["lfpi_error"].max()),
                "rank correlation of α and products below auto": _correlation(kept),
            }
        )
    return pd.DataFrame(rows)


def divergence(results: pd.DataFrame) -> pd.DataFrame:
    """Return, per problem, what happens at steps too large: the solution rests, the series explodes."""
    rows = []
    for name, table in _by_problem(results):
        large = table[(table["choice"] == "grid") & (table["spectral_radius"] >= 1)]
        rows.append(
            {
                "problem": TITLES[name],
                "rows": len(large),
                "smallest α (relative to auto)": float(large["relative_step"].min()),
                "‖U(z*) - z*‖, largest": float(large["rest_residual"].max()),
                "series' gradient error, median": float(large["series_error"].median()),
                "drift of x in as many steps, median": float(large["unfold_drift"].median()),
                "lfpi reported as converged": int(large["lfpi_converged"].sum()),
                "gmres's gradient error, largest": float(large["gmres_error"].max()),
            }
        )
    return pd.DataFrame(rows)


def _by_problem(results: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name, results[results["problem"] == name]) for name in results["problem"].unique()]


def _correlation(kept: pd.DataFrame) -> float:
    """Return Spearman's rank correlation, averaged over instances: -1 where products fall with α."""
    below = kept[kept["relative_step"] <= 1]
    values = [
        one["relative_step"].rank().corr(one["lfpi_products"].rank())
        for _, one in below.groupby("seed")
        if len(one) > 2
    ]
    return float(np.mean(values)) if values else float("nan")
