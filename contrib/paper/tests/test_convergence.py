"""Figure 3 at the tiny size: what the paper says of the curves, checked on the numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from foldcore_paper.experiments.convergence import ConvergenceExperiment, ConvergenceSettings
from foldcore_paper.experiments.convergence.measure import Start, draw_instances, loss, measure
from foldcore_paper.experiments.convergence.tables import (
    deviations,
    fitted_rate,
    rates,
    steps_to_reach,
)
from foldcore_paper.runner import run_experiment
from foldcore_paper.settings import Size, read_settings
from foldcore_paper.topk import solve_topk


def tiny() -> ConvergenceSettings:
    settings = read_settings(ConvergenceExperiment(), Size.TINY)
    assert isinstance(settings, ConvergenceSettings)
    return settings


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run_experiment(ConvergenceExperiment(), tiny(), tmp_path_factory.mktemp("convergence"))


def test_from_the_solution_the_forward_pass_stays_and_the_backward_pass_converges(
    results: pd.DataFrame,
) -> None:
    part = results[results["start"] == "solution"]
    assert part["forward_error"].max() < 1e-14
    last = part[part["iteration"] == tiny().counts()[-1]]
    assert last["backward_error"].max() < 1e-11
    assert part[part["iteration"] == 1]["backward_error"].min() > 0.1


def test_the_backward_error_settles_at_the_rate_of_theorem_1(results: pd.DataFrame) -> None:
    part = results[results["start"] == "solution"]
    first, last = tiny().counts()[-3], tiny().counts()[-2]
    for _, one in part.groupby("seed"):
        errors = one.set_index("iteration")["backward_error"]
        measured = math.log(errors[first] / errors[last]) / (last - first)
        # Two eigenvalues 2% apart still share the error here; the series itself is checked exactly.
        assert measured == pytest.approx(-math.log(one["spectral_radius"].iloc[0]), rel=0.1)


def test_from_a_random_point_the_backward_pass_lags(results: pd.DataFrame) -> None:
    table = steps_to_reach(results).set_index(["start", "pass"])
    for threshold in ("1e-02", "1e-04", "1e-06"):
        column = table[threshold]
        assert column["random", "backward"] > column["random", "forward"] + 2
        assert column["random", "backward"] > column["x*", "backward"] + 1
    lag = table.loc[("random", "backward")] - table.loc[("random", "forward")]
    assert lag["1e-06"] > lag["1e-02"]


def test_k_steps_are_the_series_up_to_k_minus_1(results: pd.DataFrame) -> None:
    """The paper's (14) and (17a) disagree by one; (14) counts as the code does."""
    known = results[results["start"] == "solution"]
    assert known["series_previous"].max() < 1e-13
    assert known[known["iteration"] <= 5]["series_same"].min() > 1e-2
    assert deviations(results)["relative deviation"].tolist() == [
        known["series_previous"].max(), known["series_same"].max(),
    ]  # fmt: skip


def test_one_step_from_afar_is_differentiated_as_central_differences_say() -> None:
    settings = tiny()
    (row,) = (row for row in measure(settings, Start.RANDOM, [0]) if row["iteration"] == 1)
    c, targets, points = draw_instances(settings, [0])
    projected = torch.as_tensor(points[0])
    low, high = -2.0, 2.0
    for _ in range(200):
        middle = (low + high) / 2
        total = float((projected - middle).clamp(settings.floor, 1).sum())
        low, high = (middle, high) if total > settings.k else (low, middle)
    start = (projected - low).clamp(settings.floor, 1)

    def one_step(logits: torch.Tensor) -> torch.Tensor:
        gradient = -logits + settings.temperature * (start.log() + 1)
        moved = start - settings.step_size * gradient
        low, high = -9.0, 9.0
        for _ in range(200):
            middle = (low + high) / 2
            total = float((moved - middle).clamp(settings.floor, 1).sum())
            low, high = (middle, high) if total > settings.k else (low, middle)
        return (moved - low).clamp(settings.floor, 1)

    exact = solve_topk(c, settings.k, settings.temperature, settings.floor)[0]
    error = (one_step(c[0]) - exact).abs().sum() / exact.abs().sum()
    assert row["forward_error"] == pytest.approx(float(error), rel=1e-10)

    def differences(x_of: object, size: float = 1e-6) -> torch.Tensor:
        assert callable(x_of)
        columns = []
        for i in range(settings.classes):
            step = torch.zeros_like(c[0])
            step[i] = size
            ends = [float(loss(x_of(c[0] + sign * step), targets[0])) for sign in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * size))
        return torch.tensor(columns, dtype=torch.float64)

    reference = differences(
        lambda one: solve_topk(one[None], settings.k, settings.temperature, settings.floor)[0]
    )
    backward = (differences(one_step) - reference).abs().sum() / reference.abs().sum()
    assert row["backward_error"] == pytest.approx(float(backward), rel=1e-6)


def test_instances_do_not_depend_on_their_batch() -> None:
    together = measure(tiny(), Start.RANDOM, [0, 1])
    alone = measure(tiny(), Start.RANDOM, [1])
    kept = [row for row in together if row["seed"] == 1]
    assert [row["iteration"] for row in kept] == [row["iteration"] for row in alone]
    for one, other in zip(kept[:8], alone[:8], strict=True):
        assert one["backward_error"] == pytest.approx(other["backward_error"], rel=1e-9)


def test_a_fitted_rate_is_that_of_a_geometric_sequence() -> None:
    errors = pd.Series([0.5**k for k in range(60)], index=range(60))
    assert fitted_rate(errors) == pytest.approx(math.log(2), rel=1e-12)
    assert math.isnan(fitted_rate(errors[:5]))


def test_figure_and_tables_are_made(results: pd.DataFrame, tmp_path: Path) -> None:
    (path,) = ConvergenceExperiment().draw(results, tmp_path)
    assert path.stat().st_size < 150_000
    assert len(ConvergenceExperiment().summarise(results)) == 3
    assert rates(results)["median"].between(0.9, 1.15).all()
