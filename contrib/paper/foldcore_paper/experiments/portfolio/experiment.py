"""The experiment as cells: accuracy per market, one timing run, one training run per method and seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ...experiment import Cell, Experiment, Row, Value, Workspace
from .accuracy import measure_accuracy
from .data import Market, generate_market
from .figure import draw_accuracy, draw_regret
from .methods import unusable_reason
from .settings import PortfolioSettings
from .tables import ACCURACY, SKIPPED, TIMING, TRAINING, summary
from .timing import measure_times
from .training import train


class PortfolioExperiment(Experiment[PortfolioSettings]):
    """Regret of prices predicted through (20), and the accuracy and time of the layers behind it.

    A method that cannot run here, Gurobi without a licence, has one cell with the reason as its row.
    """

    name = "portfolio"
    title = "Figure 4c: portfolio prediction and optimisation by f-SQP and cvxpylayers"
    settings_class = PortfolioSettings

    def cells(self, settings: PortfolioSettings) -> list[Cell]:
        wanted = dict.fromkeys(
            (*settings.methods, *settings.accuracy.methods, *settings.timing.methods)
        )
        cells = [
            Cell({"part": SKIPPED, "method": method, "degree": None, "seed": None})
            for method in wanted
            if unusable_reason(method) is not None
        ]
        first = settings.degrees[0]
        timing: dict[str, Value] = {
            "part": TIMING,
            "method": "together",
            "degree": first,
            "seed": 0,
        }
        cells.append(Cell(timing, alone=True))
        cells += [
            Cell({"part": ACCURACY, "method": "together", "degree": degree, "seed": seed})
            for seed in range(settings.accuracy.seeds)
            for degree in settings.degrees
        ]
        # The slow ones first, so that processes end together.
        trained = sorted(_usable(settings.methods), key=_is_fast)
        cells += [
            Cell({"part": TRAINING, "method": method, "degree": degree, "seed": seed})
            for method in trained
            for seed in range(settings.seeds)
            for degree in settings.degrees
        ]
        return cells

    def run(self, settings: PortfolioSettings, cell: Cell, workspace: Workspace) -> list[Row]:
        del workspace  # a cell takes a few minutes at most: nothing to checkpoint
        part, method = cell.labels["part"], str(cell.labels["method"])
        if part == SKIPPED:
            return [{"reason": unusable_reason(method)}]
        degree, seed = int(cell.labels["degree"] or 0), int(cell.labels["seed"] or 0)
        market = self.market(settings, degree, seed)
        if part == TIMING:
            return measure_times(settings, _usable(settings.timing.methods), market)
        if part == ACCURACY:
            return measure_accuracy(settings, _usable(settings.accuracy.methods), market, seed)
        return train(settings, method, market, seed)

    @staticmethod
    def market(settings: PortfolioSettings, degree: int, seed: int) -> Market:
        """Return the market of a cell."""
        return generate_market(
            settings.market, degree, seed, n_train=settings.n_train, n_test=settings.n_test
        )

    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        return [
            draw_regret(results, folder / "portfolio-regret.png"),
            draw_accuracy(results, folder / "portfolio-accuracy.png"),
        ]

    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return summary(results)


def _usable(methods: Sequence[str]) -> tuple[str, ...]:
    return tuple(method for method in methods if unusable_reason(method) is None)


def _is_fast(method: str) -> bool:
    return not method.startswith("cvxpylayers")
