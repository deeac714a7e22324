"""A small run of the whole demo: its results, not only that it ran."""

import os
import subprocess
import sys

import pytest
import torch
from foldcore_digits import Experiment, TrainingConfig, run
from foldcore_digits.cli import FIGURE_NAME, main
from foldcore_digits.experiment import CLOSED_FORM, FOLDED, SOFTMAX
from foldcore_digits.figure import save_curves

EXPERIMENT = Experiment(training=TrainingConfig(epochs=6), train_size=500)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def results():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run(EXPERIMENT)
    torch.set_num_threads(threads)


def test_the_networks_learn(results):
    # Chance is 10%; one who knows the coarse group alone reaches 20% and, with two guesses, 40%.
    for name in (FOLDED, CLOSED_FORM, SOFTMAX):
        last = results.records[name][-1]
        assert last.top_1 > 0.75, name
        assert last.top_k > 0.88, name
        assert last.loss < results.records[name][0].loss - 0.2, name


def test_the_fold_trains_as_its_closed_form_does(results):
    assert results.loss_difference < 1e-6
    folded, exact = (results.records[name][-1] for name in (FOLDED, CLOSED_FORM))
    # One test sample of 360 may sit on the edge between two classes.
    assert abs(folded.top_1 - exact.top_1) <= 1 / 360 + 1e-12


def test_the_gradient_agrees_with_central_differences(results):
    assert results.gradient_error < 1e-6


def test_residuals_are_small(results):
    assert 0 < results.meter.fixed_point_residual < 1e-7
    assert 0 < results.meter.adjoint_residual < 1e-7
    assert 1 <= results.meter.adjoint_products <= 20


def test_every_sample_of_the_folded_run_and_no_other_is_metered(results):
    meter = results.meter
    assert meter.samples == EXPERIMENT.training.epochs * EXPERIMENT.train_size
    parts = (meter.solve_seconds, meter.fold_seconds, meter.adjoint_seconds)
    assert min(parts) > 0
    assert sum(parts) < results.seconds[FOLDED]


def test_the_figure_is_a_png_with_something_on_it(results, tmp_path):
    path = tmp_path / "not made yet" / "curves.png"
    save_curves(results, 2, path)
    content = path.read_bytes()
    assert content.startswith(PNG_SIGNATURE)
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1500, 630)
    assert len(content) > 20_000


def test_the_command_prints_its_results_and_saves_the_figure(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "foldcore_digits", "--quick", "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    for expected in (
        FOLDED, CLOSED_FORM, SOFTMAX, "top-1", "top-2", "solve", "fold", "adjoint",
        "fixed-point residual", "adjoint residual", "relative gradient error", FIGURE_NAME,
    ):  # fmt: skip
        assert expected in finished.stdout
    assert "Warning" not in finished.stderr
    figure = tmp_path / "demo-output" / FIGURE_NAME
    assert figure.read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("wrong", [["--epochs", "0"], ["--epochs", "many"], ["--epoch-count", "3"]])
def test_a_wrong_option_ends_with_a_message(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err
