"""The tables a reader wants first."""

from __future__ import annotations

import pandas as pd

from .timing import FDPG, FOLDCORE_QPTH, MATCHED, QPTH

TIMES = ["forward_seconds", "recorded_forward_seconds", "backward_seconds"]


def best_total_variation(baseline: pd.DataFrame) -> tuple[float, float]:
    """Return λ of the least training error, and its test error."""
    best = baseline.loc[baseline["train_mse"].idxmin()]
    return float(best["lambda"]), float(best["test_mse"])


def error_table(training: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Return test errors by λ: total variation (TV), both methods at qpth's last epoch, f-FDPG's last.

    ``difference`` is the largest relative one between the two methods at common epochs.
    """
    best_weight, best = best_total_variation(baseline)
    rows = []
    for weight, runs in training.groupby("lambda"):
        curves = {
            str(method): run.set_index("epoch")["test_mse"]
            for method, run in runs.groupby("method")
        }
        norms = runs[runs["method"] == FDPG].set_index("epoch")["operator_norm_squared"]
        common, last = curves[QPTH].index[-1], curves[FDPG].index[-1]
        shared = curves[QPTH].index.intersection(curves[FDPG].index)
        rows.append(
            {
                "lambda": weight,
                "TV": curves[FDPG].iloc[0],
                f"qpth @{common:g}": curves[QPTH].iloc[-1],
                f"f-FDPG @{common:g}": curves[FDPG][common],
                "difference": (curves[QPTH][shared] / curves[FDPG][shared] - 1).abs().max(),
                f"f-FDPG @{last:g}": curves[FDPG].iloc[-1],
                f"TV, best {best_weight:g}": best,
                "D norm squared": norms.iloc[-1],
            }
        )
    return pd.DataFrame(rows)


def gradient_table(gradient: pd.DataFrame) -> pd.DataFrame:
    """Return the differences by λ and operator."""
    columns = ["lambda", "operator", "fdpg_to_qpth", "fdpg_to_closed_form", "qpth_to_closed_form",
               "degenerate_samples", "smallest_margin"]  # fmt: skip
    return gradient[columns].astype({"degenerate_samples": int}).reset_index(drop=True)


def medians(timing: pd.DataFrame) -> pd.DataFrame:
    """Return median times and the residual by operator, λ, batch size and method."""
    keys = ["operator", "lambda", "batch_size", "method"]
    whole = timing.astype({"batch_size": int})
    return whole.groupby(keys)[[*TIMES, "kkt_residual"]].median().reset_index()


def time_tables(timing: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return forward passes, training steps and residuals, methods side by side.

    ``ratio`` says how many times as long bare qpth takes: of forward passes, the paper's "times
    faster", beside f-FDPG with residuals of qpth's size; of a training step, forward and backward.
    """
    table = medians(timing).set_index(["operator", "lambda", "batch_size", "method"])
    wide = {column: table[column].unstack("method") for column in table.columns}
    order = [FDPG, MATCHED, QPTH, FOLDCORE_QPTH]
    forward = wide["forward_seconds"][order]
    recorded, backward = wide["recorded_forward_seconds"], wide["backward_seconds"]
    both = recorded + backward
    steps = pd.DataFrame(
        {
            "f-fdpg forward": recorded[FDPG],
            "backward": backward[FDPG],
            "qpth forward": recorded[QPTH],
            "backward ": backward[QPTH],
            "ratio": both[QPTH] / both[FDPG],
        }
    )
    return {
        "Forward pass (median seconds)": forward.assign(
            ratio=forward[QPTH] / forward[MATCHED]
        ).reset_index(),
        "Training step (median seconds)": steps.reset_index(),
        "Largest KKT residual of the batch": wide["kkt_residual"][order].reset_index(),
    }
