"""Tables of the portfolio experiment."""

from __future__ import annotations

import pandas as pd

ACCURACY, TIMING, TRAINING, SKIPPED = "accuracy", "timing", "training", "skipped"
"""The parts of the experiment: values of the column ``part``."""

WRONG = 0.01
"""Relative error of a gradient from which a sample counts as wrong."""


def summary(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables of a run."""
    tables = {
        "Test regret after the last epoch, percent: mean ± standard error over seeds": regret(results),
        "What happened in training: sums over all runs of a method": events(results),
        "The layer's own portfolios on test samples after training": own(results),
        "Relative errors in natural units, per sample": errors(results),
        "Forward pass, milliseconds per sample, methods in turns": times(results),
    }  # fmt: skip
    skipped = results[results["part"] == SKIPPED]
    if len(skipped):
        tables["Not run here"] = skipped[["method", "reason"]]
    return tables


def last_epoch(results: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of each training run."""
    training = results[results["part"] == TRAINING]
    return training[training["epoch"] == training["epoch"].max()]


def regret(results: pd.DataFrame) -> pd.DataFrame:
    """Return mean ± standard error of the regret, a row per method and a column per degree."""
    found = last_epoch(results).groupby(["method", "degree"], sort=False)["regret_percent"]
    text = found.agg(lambda values: f"{values.mean():.2f} ± {values.sem():.2f}")
    table = text.unstack("degree").sort_index(axis=1)
    table.columns = [f"degree {int(degree)}" for degree in table.columns]
    return table.reset_index()


def events(results: pd.DataFrame) -> pd.DataFrame:
    """Return what the tallies of a method's runs add up to."""
    columns = ["skipped_batches", "masked_samples", "degenerate_samples", "doubted_samples",
               "adjoint_failures", "nonfinite_gradients"]  # fmt: skip
    found = last_epoch(results).groupby("method", sort=False)
    table = found[columns].sum().astype(int)
    table["train_seconds_per_run"] = found["train_seconds"].mean()
    return table.reset_index()


def own(results: pd.DataFrame) -> pd.DataFrame:
    """Return regret and worst constraint violation of what the layers returned themselves."""
    found = last_epoch(results)
    found = found[found["own_solved_samples"].notna()].groupby("method", sort=False)
    return found.agg(
        regret_percent=("own_regret_percent", "mean"),
        exact_regret_percent=("own_exact_regret_percent", "mean"),
        largest_violation=("own_largest_violation", "max"),
    ).reset_index()


def errors(results: pd.DataFrame) -> pd.DataFrame:
    """Return medians and maxima of the errors, and the shares of samples that failed or are wrong."""
    rows = []
    accuracy = results[results["part"] == ACCURACY]
    for (method, kind), one in accuracy.groupby(["method", "instances"], sort=False):
        failed = one["failed"].astype(bool)
        rows.append(
            {
                "method": method,
                "instances": kind,
                "x median": float(one["x_error"].median()),
                "x largest": float(one["x_error"].max()),
                "gradient median": float(one["gradient_error"].median()),
                "gradient largest": float(one["gradient_error"].max()),
                "gradients off by > 1 %, percent": float(
                    100 * (failed | (one["gradient_error"] > WRONG)).mean()
                ),
                "failed": int(failed.sum()),
                "doubted by itself": int(one["doubted"].astype(bool).sum()),
                "samples": len(one),
            }
        )
    return pd.DataFrame(rows)


def times(results: pd.DataFrame) -> pd.DataFrame:
    """Return quartiles of the forward time per sample."""
    timing = results[results["part"] == TIMING]
    per_sample = 1e3 * timing["forward_seconds"] / timing["samples"]
    table = per_sample.groupby(timing["method"], sort=False).quantile([0.25, 0.5, 0.75]).unstack()
    table.columns = ["lower quartile", "median", "upper quartile"]
    return table.reset_index()
