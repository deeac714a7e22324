"""The denoising experiment at its smallest size: solutions, gradients, resumption, tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from foldcore_paper.experiments.denoising import DenoisingExperiment, DenoisingSettings
from foldcore_paper.experiments.denoising.gradients import compare_gradients, on_active_set
from foldcore_paper.experiments.denoising.methods import (
    Denoiser,
    FoldcoreQpthDenoiser,
    FoldedDenoiser,
    QpthDenoiser,
    certify,
    differencing,
)
from foldcore_paper.experiments.denoising.signals import LENGTH, Signals, make_signals
from foldcore_paper.experiments.denoising.training import batches, mean_squared_error, train
from foldcore_paper.runner import run_experiment
from foldcore_paper.settings import Size, read_settings
from torch import Tensor

EXPERIMENT = DenoisingExperiment()


@pytest.fixture(scope="module")
def settings() -> DenoisingSettings:
    found = read_settings(EXPERIMENT, Size.TINY)
    assert isinstance(found, DenoisingSettings)
    return found


@pytest.fixture(scope="module")
def results(settings: DenoisingSettings, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return run_experiment(EXPERIMENT, settings, tmp_path_factory.mktemp("denoising"))


def learned(seed: int = 0, size: float = 0.05) -> Tensor:
    """Return a D that is not sparse, as a learned one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(LENGTH - 1, LENGTH, generator=generator, dtype=torch.float64)
    return differencing() + size * drawn


def denoisers(weight: float, operator: Tensor | None = None) -> dict[str, Denoiser]:
    return {
        "folded": FoldedDenoiser(weight, 1e-10, operator),
        "qpth": QpthDenoiser(weight, 1e-8, 1e-10, operator),
        "foldcore qpth": FoldcoreQpthDenoiser(weight, 1e-8, operator),
    }


def test_signals_are_those_of_the_source() -> None:
    signals = make_signals(2000, seed=3)
    target = signals.target
    pieces = (target.diff(dim=-1) != 0).sum(-1) + 1
    assert int(pieces.min()) == 1
    assert int(pieces.max()) == 9
    # Uniform on 1..9; neighbours of equal height merge two pieces at times.
    assert abs(float(pieces.double().mean()) - 5) < 0.2
    assert float(target.min()) == 1.0
    assert float(target.max()) == 9.9
    assert torch.equal((10 * target).round() / 10, target)
    noise = signals.noisy - target
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert torch.equal(make_signals(2000, seed=3).noisy, signals.noisy)
    training, test = signals.split(0.1)
    assert (len(training), len(test)) == (1800, 200)


def test_every_epoch_takes_each_signal_once(settings: DenoisingSettings) -> None:
    signals = make_signals(20, seed=0)
    first = torch.cat([batch.target for batch in batches(signals, settings, 0)])
    second = torch.cat([batch.target for batch in batches(signals, settings, 1)])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(0).values, second.sort(0).values)
    assert torch.equal(first.sort(0).values, signals.target.sort(0).values)


@pytest.mark.parametrize("name", ["folded", "qpth", "foldcore qpth"])
def test_strong_total_variation_returns_the_mean(name: str) -> None:
    # For λ >= max |cumulative sum of d - mean|, x* is constant: the mean of d.
    signals = make_signals(1, seed=1)
    noisy = signals.noisy - signals.target
    centred = noisy - noisy.mean(-1, keepdim=True)
    weight = float(centred.cumsum(-1).abs().max()) * 1.1
    x = denoisers(weight)[name](noisy).detach()
    assert torch.allclose(x, noisy.mean(-1, keepdim=True).expand_as(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.05, 1.0])
@pytest.mark.parametrize("operator", [differencing(), learned()], ids=["differencing", "learned"])
def test_methods_return_one_solution(weight: float, operator: Tensor) -> None:
    noisy = make_signals(3, seed=2).noisy
    with torch.no_grad():
        found = {name: one(noisy) for name, one in denoisers(weight, operator).items()}
    assert float(certify(weight, operator, noisy, found["folded"]).residual.max()) < 1e-9
    for name in ("qpth", "foldcore qpth"):
        assert torch.allclose(found[name], found["folded"], rtol=0, atol=1e-6), name
        assert float(certify(weight, operator, noisy, found[name]).residual.max()) < 1e-6


def test_a_wrong_point_is_not_certified() -> None:
    noisy = make_signals(2, seed=2).noisy
    operator = learned()
    with torch.no_grad():
        x = FoldedDenoiser(0.2, operator=operator)(noisy)
    moved = x.clone()
    moved[1, 40] += 1e-3
    residual = certify(0.2, operator, noisy, moved).residual
    assert float(residual[0]) < 1e-9
    assert float(residual[1]) > 1e-5


@pytest.mark.parametrize("operator", [differencing(), learned()], ids=["differencing", "learned"])
def test_gradients_are_central_differences(operator: Tensor) -> None:
    weight, step = 0.5, 1e-6
    signals = make_signals(2, seed=4)
    direction = learned(seed=9, size=1.0) - differencing()

    def loss(x: Tensor) -> Tensor:
        return (x - signals.target).square().mean()

    def value(shift: float) -> float:
        with torch.no_grad():
            denoiser = FoldedDenoiser(weight, 1e-13, operator + shift * direction)
            return float(loss(denoiser(signals.noisy)))

    expected = (value(step) - value(-step)) / (2 * step)
    for name, one in denoisers(weight, operator).items():
        gradient = torch.autograd.grad(loss(one(signals.noisy)), one.operator)[0]
        tolerance = 1e-6 if name == "folded" else 1e-4
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=tolerance), name

    leaf = operator.clone().requires_grad_()
    x = FoldedDenoiser(weight, 1e-13, operator)(signals.noisy).detach()
    formula = on_active_set(weight, leaf, signals.noisy, x)
    assert torch.allclose(formula, x, rtol=0, atol=1e-9)
    gradient = torch.autograd.grad(loss(formula), leaf)[0]
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6)


def test_degenerate_samples_are_counted_and_left_out(settings: DenoisingSettings) -> None:
    # On a rising ramp every multiplier is at its bound; a tie in it is a row at zero as well.
    batch = make_signals(4, seed=5)
    noisy = batch.noisy.clone()
    noisy[2] = torch.arange(LENGTH, dtype=torch.float64)
    noisy[2, 50] = noisy[2, 51]
    row = compare_gradients(settings, 0.5, differencing(), Signals(noisy, batch.target))
    assert row["degenerate_samples"] == 1
    assert isinstance(row["smallest_margin"], float)
    assert row["smallest_margin"] < 1e-8
    assert isinstance(row["fdpg_to_closed_form"], float)
    assert row["fdpg_to_closed_form"] < 1e-6


def test_training_goes_on_exactly_where_it_was(settings: DenoisingSettings, tmp_path: Path) -> None:
    data = make_signals(30, seed=0).split(0.1)

    def run(epochs: int, checkpoint: Path) -> list[dict[str, object]]:
        denoiser = FoldedDenoiser(0.2, settings.rtol)
        rows = train(settings, denoiser, 0.2, epochs, data, checkpoint)
        return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]

    whole = run(2, tmp_path / "whole")
    run(1, tmp_path / "parts")
    assert (tmp_path / "parts").exists()
    assert run(2, tmp_path / "parts") == whole
    assert len(whole) == 1 + 2 * settings.evaluations_per_epoch


def test_both_methods_learn_the_same(results: pd.DataFrame) -> None:
    table = EXPERIMENT.summarise(results)["Test MSE"]
    assert (table["difference"] < 1e-4).all()
    # The common start is total variation itself, not a trained denoiser.
    training = results[results["kind"] == "training"]
    start = training[training["epoch"] == 0]
    variation = results[results["kind"] == "total-variation"].set_index("lambda")["test_mse"]
    assert np.allclose(start["test_mse"], variation[0.2], rtol=1e-6)


def test_gradients_agree(results: pd.DataFrame) -> None:
    table = EXPERIMENT.summarise(results)["Relative differences of the gradient in D"]
    assert list(table["operator"]) == ["differencing", "learned"]
    assert (table["fdpg_to_closed_form"] < 1e-6).all()
    assert (table["fdpg_to_qpth"] < 1e-4).all()


def test_times_come_with_matching_residuals(results: pd.DataFrame) -> None:
    timing = results[results["kind"] == "timing"]
    assert set(timing["method"]) == {"f-fdpg", "f-fdpg-matched", "qpth", "foldcore-qpth"}
    assert (timing["kkt_residual"] < 1e-6).all()
    times = timing[["forward_seconds", "recorded_forward_seconds", "backward_seconds"]]
    assert (times > 0).to_numpy().all()


def test_figures_are_drawn(results: pd.DataFrame, tmp_path: Path) -> None:
    paths = EXPERIMENT.draw(results, tmp_path)
    assert [path.name for path in paths] == ["denoising-errors.png", "denoising-times.png"]
    assert all(path.stat().st_size < 150_000 for path in paths)


def test_the_error_is_that_of_the_operator() -> None:
    signals = make_signals(5, seed=7)
    error = mean_squared_error(1e-9, None, signals)
    noise = float((signals.noisy - signals.target).square().mean())
    assert error == pytest.approx(noise, rel=1e-6)  # λ = 0 returns the noisy signal
