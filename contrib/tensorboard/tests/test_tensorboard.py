"""What is written is read back from TensorBoard's own files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from foldcore_tensorboard import logging_to
from foldcore_tensorboard.environment import VARIABLE, listener
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foldcore import AdjointSolution, Solution, Status
from foldcore.hooks import adjoint_finished, residual_checked, solve_finished

SOLVE = """
import torch
from foldcore import Solution, Status
from foldcore.hooks import solve_finished
solve_finished("rule.inner", Solution(torch.zeros(2, 1), (Status.OPTIMAL, Status.INFEASIBLE)), 0.5)
"""


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_every_metric_arrives(tmp_path: Path) -> None:
    solution = Solution(torch.zeros(2, 3), (Status.OPTIMAL, Status.TIME_LIMIT), iterations=(4, 8))
    adjoint = AdjointSolution(
        torch.zeros(2, 3),
        torch.tensor([0.25, 0.5]),
        torch.tensor([3, 6]),
        torch.tensor([True, False]),
    )
    with logging_to(tmp_path):
        for seconds in (0.5, 2.0):
            solve_finished("", solution, seconds)
            residual_checked("", torch.tensor([0.0, 0.125]), seconds / 2)
            adjoint_finished("", adjoint, seconds / 4)
    solve_finished("", solution, 9.0)
    written = read(tmp_path)
    assert written == {
        "foldcore/layer/solve_seconds": [(0, 0.5), (1, 2.0)],
        "foldcore/layer/failed_samples": [(0, 1.0), (1, 1.0)],
        "foldcore/layer/mean_solver_iterations": [(0, 6.0), (1, 6.0)],
        "foldcore/layer/largest_fixed_point_residual": [(0, 0.125), (1, 0.125)],
        "foldcore/layer/fold_seconds": [(0, 0.25), (1, 1.0)],
        "foldcore/layer/adjoint_seconds": [(0, 0.125), (1, 0.5)],
        "foldcore/layer/mean_adjoint_products": [(0, 4.5), (1, 4.5)],
        "foldcore/layer/largest_adjoint_residual": [(0, 0.5), (1, 0.5)],
        "foldcore/layer/unconverged_adjoints": [(0, 1.0), (1, 1.0)],
    }


def test_paths_have_steps_of_their_own(tmp_path: Path) -> None:
    solution = Solution(torch.zeros(1, 1), (Status.OPTIMAL,))
    with logging_to(tmp_path):
        solve_finished("rule.inner", solution, 1.0)
        solve_finished("rule.inner", solution, 1.0)
        solve_finished("", solution, 1.0)
    written = read(tmp_path)
    assert [step for step, _ in written["foldcore/rule.inner/solve_seconds"]] == [0, 1]
    assert [step for step, _ in written["foldcore/layer/solve_seconds"]] == [0]


def test_nobody_listens_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert listener() is None


def test_a_script_is_watched_from_outside(tmp_path: Path) -> None:
    environment = {**os.environ, VARIABLE: str(tmp_path / "runs")}
    subprocess.run([sys.executable, "-c", SOLVE], env=environment, check=True)
    assert read(tmp_path / "runs")["foldcore/rule.inner/failed_samples"] == [(0, 1.0)]
