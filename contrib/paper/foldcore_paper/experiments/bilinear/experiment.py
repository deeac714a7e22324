"""The experiment: cells of one objective and one method, rows of one epoch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from ...experiment import Cell, Experiment, Row, Settings, Workspace
from .data import Dataset, make_dataset
from .figure import draw_figures
from .problem import Bilinear, Decider
from .settings import BilinearSettings
from .tables import summary_tables
from .training import EpochReport, Trainer

REFERENCE = "mean costs"
"""The decision that is best for the mean training costs, taken for every sample."""


class BilinearExperiment(Experiment[BilinearSettings]):
    """Regret of two-stage learning and of f-PGDb, with and without smoothing."""

    name: ClassVar[str] = "bilinear"
    title: ClassVar[str] = "Decision-focused learning of a nonconvex bilinear problem"
    settings_class: ClassVar[type[Settings]] = BilinearSettings

    def cells(self, settings: BilinearSettings) -> list[Cell]:
        names = [REFERENCE, *(method.name for method in settings.methods)]
        return [
            Cell({"objective": seed, "method": name})
            for seed in settings.objectives
            for name in names
        ]

    def run(self, settings: BilinearSettings, cell: Cell, workspace: Workspace) -> list[Row]:
        seed, name = int(str(cell.labels["objective"])), str(cell.labels["method"])
        data, problem = make_dataset(settings), Bilinear.draw(settings, seed)
        evaluation = Evaluation(settings, data, problem)
        if name == REFERENCE:
            constant = data.train_costs.mean(0).expand_as(data.test_costs)
            return [{"epoch": 0, **evaluation(constant)}]
        trainer = Trainer(settings, data, problem, settings.method(name), seed)
        rows = [{"epoch": 0, **evaluation(trainer.predict(data.test_features))}]
        for epoch, report in enumerate(trainer.epochs(), start=1):
            measured = evaluation(trainer.predict(data.test_features))
            rows.append({"epoch": epoch, **measured, **_row(report)})
        return rows

    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        return draw_figures(results, folder)

    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return summary_tables(results)


class Evaluation:
    """Test regret by the unsmoothed problem; the true optima are solved once and kept."""

    def __init__(self, settings: BilinearSettings, data: Dataset, problem: Bilinear) -> None:
        self._problem, self._costs = problem, data.test_costs
        self._decide = Decider(problem, settings)
        self._truth = self._decide(data.test_costs)
        self._optima = problem.value(self._truth.primal, data.test_costs)

    def __call__(self, predicted: Tensor) -> Row:
        """Return what is measured of predicted costs (test samples, 2n)."""
        chosen = self._decide(predicted)
        counted = chosen.solved & self._truth.solved
        regret = (self._optima - self._problem.value(chosen.primal, self._costs))[counted]
        decisions = torch.unique((chosen.primal[chosen.solved] * 1e6).round(), dim=0)
        return {
            "test_regret": float(regret.mean()),
            "test_mse": float((predicted - self._costs).square().mean()),
            "test_decisions": len(decisions),
            "test_unsolved": int((~counted).sum()),
            "test_timed_out": chosen.timed_out + self._truth.timed_out,
        }


def _row(report: EpochReport) -> Row:
    return {
        "train_samples": report.samples,
        "train_zero_gradients": report.zero_gradients,
        "train_vertices": report.vertices,
        "train_failed": report.failed,
        "train_adjoint_warnings": report.adjoint_warnings,
        "train_kkt_residual": report.kkt_residual,
        "train_seconds": report.seconds,
    }
