"""The experiment: training by two methods, total variation, gradients, times."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd

from ...errors import PaperError
from ...experiment import Cell, Experiment, Row, Settings, Workspace
from .figure import draw_errors, draw_times
from .gradients import compare_gradients
from .methods import Denoiser, FoldedDenoiser, QpthDenoiser, differencing
from .settings import DenoisingSettings
from .signals import Signals, make_signals
from .tables import error_table, gradient_table, time_tables
from .timing import FDPG, QPTH, time_layers
from .training import mean_squared_error, pretrained, train

TRAINING, BASELINE, GRADIENT, TIMING = "training", "total-variation", "gradient", "timing"
"""Kinds of cells, and of rows."""


class DenoisingExperiment(Experiment[DenoisingSettings]):
    """Learn D of min ½‖x - d‖² + λ‖Dx‖₁ from noisy signals, by f-FDPG and by qpth.

    Cells are of four kinds: a training per method and λ; total variation by λ; gradients per λ; and
    one cell that takes all times, which wants the machine to itself.
    """

    name: ClassVar[str] = "denoising"
    title: ClassVar[str] = "Enhanced total variation denoising"
    settings_class: ClassVar[type[Settings]] = DenoisingSettings

    def cells(self, settings: DenoisingSettings) -> list[Cell]:
        # The long cells first, so that processes end together.
        trainings = [
            Cell({"kind": TRAINING, "method": method, "lambda": weight})
            for method in (QPTH, FDPG)
            for weight in settings.weights
        ]
        gradients = [Cell({"kind": GRADIENT, "lambda": weight}) for weight in settings.weights]
        return [
            *trainings,
            *gradients,
            Cell({"kind": BASELINE}),
            Cell({"kind": TIMING}, alone=True),
        ]

    def run(self, settings: DenoisingSettings, cell: Cell, workspace: Workspace) -> list[Row]:
        signals = make_signals(settings.signals, settings.seed)
        training, test = signals.split(settings.test_fraction)
        kind = cell.labels["kind"]
        if kind == TRAINING:
            return _train(settings, cell, (training, test), workspace.checkpoint)
        if kind == BASELINE:
            return [
                _total_variation(weight, training, test) for weight in settings.baseline_weights
            ]
        if kind == GRADIENT:
            weight = _weight(cell)
            batch = test.part(slice(settings.batch_size))
            operators = {
                "differencing": differencing(),
                "learned": pretrained(settings, weight, training),
            }
            return [
                {"operator": name, **compare_gradients(settings, weight, operator, batch)}
                for name, operator in operators.items()
            ]
        return time_layers(settings, training)

    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        training, baseline, _, timing = _by_kind(results)
        return [
            draw_errors(training, baseline, folder / "denoising-errors.png"),
            draw_times(timing, folder / "denoising-times.png"),
        ]

    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        training, baseline, gradient, timing = _by_kind(results)
        return {
            "Test MSE": error_table(training, baseline),
            "Relative differences of the gradient in D": gradient_table(gradient),
            **time_tables(timing),
        }


def _train(
    settings: DenoisingSettings, cell: Cell, data: tuple[Signals, Signals], checkpoint: Path
) -> list[Row]:
    weight = _weight(cell)
    if cell.labels["method"] == FDPG:
        epochs = settings.folded_epochs
        denoiser: Denoiser = FoldedDenoiser(weight, settings.rtol)
    else:
        epochs = settings.qpth_epochs
        denoiser = QpthDenoiser(weight, settings.ridge, settings.eps)
    return train(settings, denoiser, weight, epochs, data, checkpoint)


def _total_variation(weight: float, training: Signals, test: Signals) -> Row:
    """Return the untrained denoiser's errors: λ is chosen by the first, as on a validation set."""
    some = training.part(slice(len(test)))
    return {
        "lambda": weight,
        "train_mse": mean_squared_error(weight, None, some),
        "test_mse": mean_squared_error(weight, None, test),
    }


def _weight(cell: Cell) -> float:
    weight = cell.labels["lambda"]
    if not isinstance(weight, float):
        raise PaperError(f"denoising: the cell {cell.name} has no lambda.")
    return weight


def _by_kind(results: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    return tuple(
        results[results["kind"] == kind].dropna(axis=1, how="all")
        for kind in (TRAINING, BASELINE, GRADIENT, TIMING)
    )
