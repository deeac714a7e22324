"""The experiment of appendix D as cells: one instance of one problem each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ...experiment import Cell, Experiment, Row, Workspace
from .figure import draw_steps
from .measure import measure
from .settings import StepSizeSettings
from .tables import choices, divergence, working_range


class StepSizeExperiment(Experiment[StepSizeSettings]):
    """Products and gradient error by step size, with foldcore's own choices marked."""

    name = "stepsize"
    title = "Appendix D: the step size in fixed-point folding"
    settings_class = StepSizeSettings

    def cells(self, settings: StepSizeSettings) -> list[Cell]:
        return [
            Cell({"problem": name, "seed": seed})
            for name in settings.problems
            for seed in range(settings.instances)
        ]

    def run(self, settings: StepSizeSettings, cell: Cell, workspace: Workspace) -> list[Row]:
        del workspace  # seconds of work: nothing to checkpoint
        return measure(settings, str(cell.labels["problem"]), int(cell.labels["seed"] or 0))

    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        return [draw_steps(results, folder / "stepsize-products.png")]

    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {
            "Foldcore's choices (medians of the instances)": choices(results),
            "Steps of the grid for which lfpi converges": working_range(results),
            "Steps of the grid with ρ(Φ) >= 1": divergence(results),
        }
