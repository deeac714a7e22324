"""Figure 4a at the tiny size: data, decisions, gradients and what becomes of training at vertices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from foldcore_gurobi import GurobiSolver
from foldcore_paper.errors import PaperError
from foldcore_paper.experiments.bilinear import BilinearExperiment, BilinearSettings
from foldcore_paper.experiments.bilinear.data import make_dataset, target_map
from foldcore_paper.experiments.bilinear.problem import (
    Bilinear,
    Decider,
    foldcore_warnings,
    folded_layer,
)
from foldcore_paper.experiments.bilinear.tables import final_regret, summary_tables
from foldcore_paper.experiments.bilinear.training import Trainer
from foldcore_paper.runner import run_experiment
from foldcore_paper.settings import Size, read_settings
from torch import Tensor

REASON = GurobiSolver.unusable_reason()
needs_gurobi = pytest.mark.skipif(REASON is not None, reason=f"gurobi: {REASON}")

F64 = torch.float64


def settings_of(size: Size = Size.TINY, **changes: object) -> BilinearSettings:
    settings = read_settings(BilinearExperiment(), size)
    assert isinstance(settings, BilinearSettings)
    return settings.model_validate({**settings.model_dump(), **changes})


def costs_of(batch: int, n: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 2 * n, generator=generator, dtype=F64)


# ---- data and settings


def test_the_target_map_is_the_printed_one_where_that_is_defined():
    x = torch.tensor([0.25, 0.5, 1.0], dtype=F64)
    printed = x * (2 * x).cos() + 5 / 2 * (x / (x + 2)).log() + x**2 * (4 * x).sin()
    torch.testing.assert_close(target_map(x), printed, rtol=1e-14, atol=0)
    left = target_map(torch.linspace(-0.99, -0.01, 50, dtype=F64))
    assert left.isfinite().all()


def test_data_follow_appendix_e1_and_are_standardised_on_the_training_part():
    data = make_dataset(settings_of(Size.FULL))
    assert data.train_features.shape == (900, 10)
    assert data.test_costs.shape == (100, 20)
    assert float(data.train_features.abs().max()) <= 2
    assert float(data.train_features.std()) == pytest.approx(4 / 12**0.5, rel=0.02)
    assert float(data.train_costs.mean()) == pytest.approx(0, abs=1e-12)
    assert float(data.train_costs.std()) == pytest.approx(1, rel=1e-12)
    again = make_dataset(settings_of(Size.FULL))
    assert torch.equal(data.train_costs, again.train_costs)


@pytest.mark.parametrize(
    "method",
    [
        {"smoothing": "none", "weight": 0.5},
        {"smoothing": "quadratic", "weight": 0.0},
        {"smoothing": "entropy", "weight": 0.5},
    ],
)
def test_a_smoothing_without_its_weight_is_refused(tmp_path: Path, method: dict[str, object]):
    import yaml

    content = settings_of().model_dump(mode="json")
    content["methods"] = [{"name": "x", "two_stage_epochs": 0, "regret_epochs": 1, **method}]
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(PaperError, match="smoothing"):
        read_settings(BilinearExperiment(), Size.FULL, path)


# ---- decisions


def best_vertices(problem: Bilinear, costs: Tensor) -> Tensor:
    """Return the optimal value for p = 1, q = 2: x is a unit vector, y the two best for it. (B,)."""
    n = problem.n
    worth = costs[:, None, n:] + problem.coupling  # (B, i, j): of y_j = 1 where x = e_i
    return (costs[:, :n] + worth.topk(2, -1).values.sum(-1)).amax(-1)


@needs_gurobi
def test_decisions_are_the_best_of_all_vertices():
    settings = settings_of(Size.FULL, mip_gap=1e-9)
    problem, costs = Bilinear.draw(settings, 3), costs_of(20, 10)
    decisions = Decider(problem, settings)(costs)
    assert decisions.solved.all()
    value = problem.value(decisions.primal, costs)
    torch.testing.assert_close(value, best_vertices(problem, costs), rtol=1e-8, atol=1e-8)


@needs_gurobi
def test_solves_that_run_out_of_time_are_counted_and_train_nothing():
    settings = settings_of(time_limit_seconds=1e-9)
    problem, data = Bilinear.draw(settings, 0), make_dataset(settings)
    decisions = Decider(problem, settings)(data.test_costs)
    assert decisions.timed_out == len(data.test_costs)
    assert not decisions.solved.any()
    trainer = Trainer(settings, data, problem, settings.method("f-pgdb quadratic"), 0)
    before = trainer.predict(data.test_features)
    report = next(trainer.epochs())
    assert report.failed == report.samples == len(data.train_costs)
    assert torch.equal(trainer.predict(data.test_features), before)


def test_without_a_licence_the_run_says_so(tmp_path: Path):
    licence = tmp_path / "gurobi.lic"
    licence.write_text("TYPE=NODE\nVERSION=13\nHOSTID=0\nEXPIRATION=2020-01-01\nKEY=A\nCKEY=A\n")
    program = f"""
from foldcore_paper.errors import PaperError
from foldcore_paper.experiments.bilinear import BilinearExperiment
from foldcore_paper.runner import run_experiment
from foldcore_paper.settings import Size, read_settings
from pathlib import Path
experiment = BilinearExperiment()
try:
    run_experiment(experiment, read_settings(experiment, Size.TINY), Path({str(tmp_path / "out")!r}))
except PaperError as error:
    print("named:", error)
"""
    environment = {**os.environ, "GRB_LICENSE_FILE": str(licence)}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "named: bilinear: Gurobi" in result.stdout, result.stderr
    assert "expired" in result.stdout


# ---- gradients


def implicit_gradient(problem: Bilinear, weight: float, z: Tensor, cotangent: Tensor) -> Tensor:
    """Return the derivative of one sample's decision, by the KKT system of its free variables."""
    program = problem.program(weight)
    hessian, sums = program.constants["P"], program.constants["A"]
    free = (z > 1e-6) & (z < 1 - 1e-6)
    gradient = torch.zeros_like(z)
    if not free.any():
        return gradient
    rows = sums[:, free]
    rows = rows[rows.any(-1)]
    k, m = int(free.sum()), len(rows)
    system = torch.zeros(k + m, k + m, dtype=F64)
    system[:k, :k], system[:k, k:], system[k:, :k] = hessian[free][:, free], rows.T, rows
    right = torch.cat([cotangent[free], torch.zeros(m, dtype=F64)])
    gradient[free] = torch.linalg.solve(system, right)[:k]
    return gradient


@needs_gurobi
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_f_pgdb_differentiates_the_global_optimum(weight: float):
    settings = settings_of(Size.FULL, mip_gap=1e-9)
    method = settings.method("f-pgdb quadratic" if weight else "f-pgdb")
    method = method.model_copy(update={"weight": weight})
    problem, batch = Bilinear.draw(settings, 0), 16
    costs = costs_of(batch, 10).requires_grad_()
    cotangent = costs_of(batch, 10, seed=2)
    with foldcore_warnings() as count:
        decision = folded_layer(problem, settings, method)(q=-costs)
        (decision * cotangent).sum().backward()
    assert count.adjoint == 0
    expected = torch.stack(
        [
            implicit_gradient(problem, weight, decision[i].detach(), cotangent[i])
            for i in range(batch)
        ]
    )
    assert costs.grad is not None
    error = (costs.grad - expected).norm(dim=-1)
    assert (error <= 1e-6 * expected.norm(dim=-1).maximum(cotangent.norm(dim=-1))).all()
    moving = int((expected.abs().amax(-1) > 1e-3).sum())
    assert moving == 0 if weight == 0 else moving >= 3


# ---- training


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    if REASON is not None:
        pytest.skip(f"gurobi: {REASON}")
    return run_experiment(BilinearExperiment(), settings_of(), tmp_path_factory.mktemp("bilinear"))


def of(results: pd.DataFrame, method: str, column: str) -> list[float]:
    return list(results[results["method"] == method].sort_values("epoch")[column])


def test_all_methods_start_from_one_network_and_every_solve_is_proven(results: pd.DataFrame):
    start = results[(results["epoch"] == 0) & (results["method"] != "mean costs")]
    assert start["test_regret"].nunique() == 1
    assert start["test_mse"].nunique() == 1
    assert (results["test_regret"] >= -1e-3).all()
    assert (results["test_unsolved"] == 0).all()
    assert (results["train_failed"].fillna(0) == 0).all()
    assert (results["train_adjoint_warnings"].fillna(0) == 0).all()


def test_at_vertices_no_gradient_moves_anything(results: pd.DataFrame):
    samples = of(results, "f-pgdb", "train_samples")[1:]
    assert of(results, "f-pgdb", "train_zero_gradients")[1:] == samples
    assert of(results, "f-pgdb", "train_vertices")[1:] == samples
    mse = of(results, "f-pgdb", "test_mse")
    assert mse == pytest.approx([mse[0]] * len(mse), rel=1e-9)


def test_smoothing_gives_gradients_where_the_decision_is_no_vertex(results: pd.DataFrame):
    zero = of(results, "f-pgdb quadratic", "train_zero_gradients")[1]
    assert zero < of(results, "f-pgdb quadratic", "train_samples")[1]
    assert zero == of(results, "f-pgdb quadratic", "train_vertices")[1]
    assert len(set(of(results, "f-pgdb quadratic", "test_mse"))) > 1


def test_two_stage_learns_costs_and_its_phase_is_that_of_the_mixed_method(results: pd.DataFrame):
    mse = of(results, "two-stage", "test_mse")
    assert mse[-1] < mse[0]
    for mixed in ("two-stage then f-pgdb", "two-stage then f-pgdb quadratic"):
        assert of(results, mixed, "test_mse")[1] == mse[1]


# ---- tables and figure


def test_tables_compare_objective_by_objective(tmp_path: Path):
    rows = [
        {"objective": seed, "method": method, "epoch": epoch, "test_regret": regret,
         "test_mse": 1.0, "test_decisions": 2, "test_unsolved": 0, "test_timed_out": 0,
         "train_samples": 10.0 * epoch, "train_zero_gradients": 4.0 * epoch, "train_vertices": 0.0,
         "train_failed": 0.0, "train_adjoint_warnings": 0.0, "train_seconds": 3.0,
         "train_kkt_residual": 1e-6 * epoch * (method != "two-stage")}
        for seed in range(2)
        for method, last in (("two-stage", 2.0 + seed), ("f-pgdb", 1.0))
        for epoch, regret in ((0, 9.0), (1, last))
    ]  # fmt: skip
    results = pd.DataFrame(rows)
    assert list(final_regret(results)["two-stage"]) == [2.0, 3.0]
    regret, gradients = summary_tables(results).values()
    folded = regret.set_index("method").loc["f-pgdb"]
    assert folded["mean"] == 1.0
    assert folded["minus two-stage"] == -1.5
    assert folded["its standard error"] == pytest.approx(0.5)
    assert folded["objectives below two-stage"] == 2
    shown = gradients.set_index("method")["zero gradients, percent"]
    assert shown["f-pgdb"] == 40.0
    assert pd.isna(shown["two-stage"])
    (figure,) = BilinearExperiment().draw(results, tmp_path)
    assert 1_000 < figure.stat().st_size < 150_000
