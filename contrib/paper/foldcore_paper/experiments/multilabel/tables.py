"""The tables that a reader wants first."""

from __future__ import annotations

import pandas as pd

COMPARED = ("f-PGDa", "f-SQP", "cvxpylayers")
"""The paper's three."""
REFERENCE = "direct"


def summarise(agreement: pd.DataFrame, training: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables: caption -> table."""
    data = ", ".join(sorted(training["data"].unique()))
    if data == "digits":
        data += " (no --data folder of CIFAR-100 was named)"
    return {
        "Gradients of the smooth top-k: largest relative differences, and seconds of a batch": _gradients(
            agreement
        ),
        f"Training on {data}: last epoch, means over seeds": _last_epoch(training),
        f"Largest differences between {', '.join(COMPARED)} over all epochs and seeds, in points": _spread(
            training
        ),
        f"Largest differences to {REFERENCE} over all epochs and seeds": _to_reference(training),
    }


def accuracy_columns(training: pd.DataFrame) -> list[str]:
    """Return the names of the columns of accuracies that have values."""
    percents = [name for name in training.columns if name.endswith("_percent")]
    return [name for name in percents if training[name].notna().any()]


def spread(training: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the largest minus the smallest value among the three compared methods, per epoch."""
    compared = training[training["method"].isin(COMPARED)]
    per_epoch = compared.groupby(["data", "k", "seed", "epoch"])[columns]
    return (per_epoch.max() - per_epoch.min()).reset_index()


def to_reference(training: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return |value - value of the reference run| per method and epoch."""
    keys = ["data", "k", "seed", "epoch"]
    reference = training[training["method"] == REFERENCE][keys + columns]
    joined = training[training["method"] != REFERENCE].merge(
        reference, on=keys, suffixes=("", "_reference")
    )
    for name in columns:
        joined[name] = (joined[name] - joined[f"{name}_reference"]).abs()
    return joined[[*keys, "method", *columns]]


def _gradients(agreement: pd.DataFrame) -> pd.DataFrame:
    detail = agreement["detail"].fillna("")
    names = agreement["method"] + (", " + detail).where(detail != "", "")
    return pd.DataFrame(
        {
            "n": agreement["classes"].astype(int),
            "k": agreement["k"],
            "forward": agreement["forward"],
            "backward": names,
            "to exact": agreement["exact_difference_max"],
            "to cvxpylayers": agreement["cvxpylayers_difference_max"],
            "forward s": agreement["forward_seconds"],
            "backward s": agreement["backward_seconds"],
        }
    )


def _last_epoch(training: pd.DataFrame) -> pd.DataFrame:
    columns = [*accuracy_columns(training), "loss"]
    last = training[training["epoch"] == training["epoch"].max()]
    keys = ["k", "method"]
    means = last.groupby(keys, sort=False)[columns].mean()
    seconds = training.groupby(keys, sort=False)["epoch_seconds"].median()
    return _short(means.join(seconds).reset_index())


def _spread(training: pd.DataFrame) -> pd.DataFrame:
    columns = accuracy_columns(training)
    return _short(spread(training, columns).groupby("k")[columns].max().reset_index())


def _to_reference(training: pd.DataFrame) -> pd.DataFrame:
    columns = [*accuracy_columns(training), "loss"]
    keys = ["k", "method"]
    differences = to_reference(training, columns).groupby(keys, sort=False)[columns].max()
    gradients = training.groupby(keys)["gradient_difference"].max()
    return _short(differences.join(gradients).reset_index())


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table under names short enough for a terminal; the percent sign says the unit."""
    names = {"epoch_seconds": "s/epoch", "gradient_difference": "gradient"}
    for name in accuracy_columns(table):
        split, _, rank = name.removesuffix("_percent").partition("_top_")
        names[name] = f"{split.replace('_', ' ')} {rank} %"
    return table.rename(columns=names)
