"""What a reader wants first: regret over objectives, and what the gradients and solves were like."""

from __future__ import annotations

import pandas as pd

BASELINE = "two-stage"
"""The method that others are compared with, objective by objective."""


def final_regret(results: pd.DataFrame) -> pd.DataFrame:
    """Return test regret after the last epoch: a row per objective, a column per method in run order."""
    last = results.loc[results.groupby(["objective", "method"])["epoch"].idxmax()]
    table = last.pivot(index="objective", columns="method", values="test_regret")
    return table[list(dict.fromkeys(results["method"]))]


def summary_tables(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables by caption."""
    return {
        f"Test regret after the last epoch, over {results['objective'].nunique()} objectives": (
            _regret_table(results)
        ),
        "Gradients of samples trained on regret, and solves": _gradient_table(results),
    }


def _regret_table(results: pd.DataFrame) -> pd.DataFrame:
    regret = final_regret(results)
    difference = regret.sub(regret[BASELINE], axis=0)
    last = results.loc[results.groupby(["objective", "method"])["epoch"].idxmax()]
    means = last.groupby("method")[["test_mse", "test_decisions"]].mean().loc[regret.columns]
    return pd.DataFrame(
        {
            "method": regret.columns,
            "mean": regret.mean().to_numpy(),
            "standard error": regret.sem().to_numpy(),
            "minus two-stage": difference.mean().to_numpy(),
            "its standard error": difference.sem().to_numpy(),
            "objectives below two-stage": (difference < 0).sum().to_numpy(),
            "test MSE": means["test_mse"].to_numpy(),
            "distinct decisions": means["test_decisions"].to_numpy(),
        }
    )


def _gradient_table(results: pd.DataFrame) -> pd.DataFrame:
    totals = results.groupby("method", sort=False).sum(numeric_only=True)
    # Epochs on the squared error solve nothing: only those on regret have a residual.
    regret = results[results["train_kkt_residual"] > 0]
    trained = regret.groupby("method")["train_samples"].sum().reindex(totals.index)
    return pd.DataFrame(
        {
            "method": totals.index,
            "zero gradients, percent": (100 * totals["train_zero_gradients"] / trained).to_numpy(),
            "vertices, percent": (100 * totals["train_vertices"] / trained).to_numpy(),
            "masked": totals["train_failed"].to_numpy(),
            "adjoint warnings": totals["train_adjoint_warnings"].to_numpy(),
            "largest KKT residual": (
                regret.groupby("method")["train_kkt_residual"].max().reindex(totals.index)
            ).to_numpy(),
            "test solves without optimum": totals["test_unsolved"].to_numpy(),
            "of these timed out": totals["test_timed_out"].to_numpy(),
            "training, seconds per objective": (
                totals["train_seconds"] / results["objective"].nunique()
            ).to_numpy(),
        }
    )
