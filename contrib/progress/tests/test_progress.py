"""The numbers are those of the run, whoever listens; nothing is printed unless asked for."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
import torch
from foldcore_progress import Statistics, as_table, display
from foldcore_progress.environment import VARIABLE, listener
from rich.console import Console

from foldcore import AdjointSolution, Solution, Status
from foldcore.hooks import listening, solve_finished

SOLVE = """
import torch
from foldcore import Solution, Status
from foldcore.hooks import solve_finished
solve_finished("rule.inner", Solution(torch.zeros(2, 1), (Status.OPTIMAL, Status.INFEASIBLE)), 0.5)
"""


def told() -> Statistics:
    statistics = Statistics()
    statuses = (Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL)
    statistics.foldcore_solve_finished(
        "", Solution(torch.zeros(3, 2), statuses, iterations=(4, 0, 5)), 0.5
    )
    statistics.foldcore_solve_finished("", Solution(torch.zeros(1, 2), (Status.TIME_LIMIT,)), 0.25)
    statistics.foldcore_residual_checked("", torch.tensor([1e-9, 3e-8]), 0.125)
    statistics.foldcore_residual_checked("", torch.tensor([2e-9]), 0.125)
    statistics.foldcore_adjoint_finished(
        "",
        AdjointSolution(
            torch.zeros(2, 2),
            torch.tensor([1e-12, 1e-3]),
            torch.tensor([6, 10]),
            torch.tensor([True, False]),
        ),
        1.0,
    )
    return statistics


def test_the_numbers() -> None:
    one = told().snapshot()[""]
    assert (one.solves, one.samples, one.solver_iterations) == (2, 4, 9)
    assert one.failures == {Status.INFEASIBLE: 1, Status.TIME_LIMIT: 1}
    assert (one.solve_seconds, one.fold_seconds, one.adjoint_seconds) == (0.75, 0.25, 1.0)
    assert one.largest_residual == pytest.approx(3e-8)
    assert (one.adjoints, one.products, one.unconverged) == (2, 16, 1)
    assert one.largest_adjoint_residual == pytest.approx(1e-3)


def test_a_snapshot_does_not_move() -> None:
    statistics = told()
    before = statistics.snapshot()[""]
    statistics.foldcore_solve_finished("", Solution(torch.zeros(1, 2), (Status.INFEASIBLE,)), 1.0)
    assert before.samples == 4
    assert before.failures[Status.INFEASIBLE] == 1


def test_the_table_says_it() -> None:
    text = io.StringIO()
    Console(file=text, width=200).print(as_table(told().snapshot()))
    for words in ("layer", "1 infeasible, 1 time_limit", "0.75 s", "3.0e-08", "8.0"):
        assert words in text.getvalue()


def test_display_listens_for_its_block_only() -> None:
    text = io.StringIO()
    solution = Solution(torch.zeros(1, 2), (Status.OPTIMAL,))
    with display(Console(file=text, width=200)) as statistics:
        solve_finished("rule.inner", solution, 2.0)
    solve_finished("rule.inner", solution, 2.0)
    assert statistics.snapshot()["rule.inner"].samples == 1
    assert "rule.inner" in text.getvalue()


def test_two_listeners_hear_the_same() -> None:
    first, second = Statistics(), Statistics()
    with listening(first), listening(second):
        solve_finished("", Solution(torch.zeros(1, 2), (Status.OPTIMAL,)), 2.0)
    assert first.snapshot() == second.snapshot() != {}


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nobody_listens_unless_asked(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert listener() is None


@pytest.mark.parametrize("asked", [True, False])
def test_a_script_is_watched_from_outside(asked: bool) -> None:
    environment = {**os.environ, VARIABLE: "1" if asked else "", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", SOLVE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert ("rule.inner" in done.stderr) is asked
    assert ("1 infeasible" in done.stderr) is asked
