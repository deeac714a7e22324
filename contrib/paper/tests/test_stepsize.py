"""Appendix D at the tiny size: rest, speed, explosion and the proposed step, on the numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from foldcore_paper.errors import PaperError
from foldcore_paper.experiments.stepsize import StepSizeExperiment, StepSizeSettings
from foldcore_paper.experiments.stepsize.problems import PROBLEMS, top_k
from foldcore_paper.experiments.stepsize.tables import choices, divergence, working_range
from foldcore_paper.runner import run_experiment
from foldcore_paper.settings import Size, read_settings
from foldcore_paper.topk import solve_topk


def tiny() -> StepSizeSettings:
    settings = read_settings(StepSizeExperiment(), Size.TINY)
    assert isinstance(settings, StepSizeSettings)
    return settings


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run_experiment(StepSizeExperiment(), tiny(), tmp_path_factory.mktemp("stepsize"))


def curvatures(seed: int) -> torch.Tensor:
    """Return the eigenvalues of T·diag(1/x*) on the range of T, from the closed form of x*."""
    n = tiny().size
    x = solve_topk(top_k(seed, n).params["c"][None], max(1, n // 20), 1.0, 1e-4)[0]
    assert ((x > 1e-3) & (x < 1)).all()
    tangent = torch.eye(n, dtype=torch.float64) - 1 / n
    return torch.linalg.eigvalsh(tangent @ torch.diag(1 / x) @ tangent)[1:]


def test_the_solution_rests_at_every_step_size(results: pd.DataFrame) -> None:
    assert results["relative_step"].max() > 5
    assert results["rest_residual"].max() < 1e-9


def test_the_proposed_step_and_rho_are_the_closed_forms(results: pd.DataFrame) -> None:
    for (seed,), part in results[results["problem"] == "top_k"].groupby(["seed"]):
        found = curvatures(seed)
        auto = part[part["choice"] == "auto"].iloc[0]
        assert auto["step"] == pytest.approx(float(2 / (found[0] + found[-1])), rel=1e-6)
        for _, row in part.iterrows():
            radius = float((1 - row["step"] * found).abs().max())
            assert row["spectral_radius"] == pytest.approx(radius, rel=1e-6)


def test_larger_steps_need_fewer_products_up_to_the_proposed_one(results: pd.DataFrame) -> None:
    grid = results[(results["choice"] == "grid") & (results["relative_step"] <= 1)]
    for _, part in grid.groupby(["problem", "seed"]):
        kept = part[part["lfpi_converged"]].sort_values("relative_step")
        assert len(kept) >= 3
        assert kept["lfpi_products"].is_monotonic_decreasing
        assert kept["lfpi_products"].is_unique


def test_the_proposed_step_beats_the_default_and_the_grid(results: pd.DataFrame) -> None:
    for _, part in results.groupby(["problem", "seed"]):
        products = part[part["lfpi_converged"]].set_index("choice")["lfpi_products"]
        assert products["auto"] <= products["default"] * 0.8
        assert products["auto"] <= products["grid"].min() * 1.05


def test_every_converged_gradient_is_the_same_gradient(results: pd.DataFrame) -> None:
    assert results[results["lfpi_converged"]]["lfpi_error"].max() < 1e-7
    assert results["gmres_converged"].all()
    assert results["gmres_error"].max() < 1e-7


def test_beyond_the_limit_the_series_explodes_and_lfpi_says_so(results: pd.DataFrame) -> None:
    large = results[results["relative_step"] > 1.9]
    assert len(large) >= 6
    assert (large["spectral_radius"] > 1).all()
    assert not large["lfpi_converged"].any()
    assert large["series_error"].min() > 1e6
    assert results[results["choice"] == "auto"]["series_error"].max() < 1e-2


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_instance_depends_on_its_seed_alone(name: str) -> None:
    one, same, other = (PROBLEMS[name](seed, 20) for seed in (1, 1, 2))
    for key, value in one.params.items():
        assert torch.equal(value, same.params[key])
    assert not torch.equal(one.cotangent, other.cotangent)


def test_an_unknown_problem_is_told(tmp_path: Path) -> None:
    values = {**tiny().model_dump(mode="json"), "problems": ["top_k", "knapsack"]}
    path = tmp_path / "mine.yaml"
    path.write_text(str(values))
    with pytest.raises(PaperError, match="unknown: knapsack; there are: top_k"):
        read_settings(StepSizeExperiment(), Size.FULL, path)


def test_figure_and_tables_are_made(results: pd.DataFrame, tmp_path: Path) -> None:
    (path,) = StepSizeExperiment().draw(results, tmp_path)
    assert path.stat().st_size < 150_000
    assert len(choices(results)) == 9
    reach = working_range(results)
    assert (reach["to"] <= reach["2/(1 + ρ at auto)"] + 1e-9).all()
    assert (divergence(results)["lfpi reported as converged"] == 0).all()
