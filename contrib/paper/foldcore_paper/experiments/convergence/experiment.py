"""The experiment of section 4 as cells: one starting point and one batch of instances each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ...experiment import Cell, Experiment, Row, Workspace
from .figure import draw_errors
from .measure import Start, measure
from .settings import ConvergenceSettings
from .tables import deviations, rates, steps_to_reach


class ConvergenceExperiment(Experiment[ConvergenceSettings]):
    """Errors of x_K and of dL/dc after K steps on the graph, from x* and from a random point."""

    name = "convergence"
    title = "Figure 3: forward and backward error of unfolded projected gradient descent"
    settings_class = ConvergenceSettings

    def cells(self, settings: ConvergenceSettings) -> list[Cell]:
        batches = range(-(-settings.instances // settings.batch))
        return [Cell({"start": start.value, "batch": one}) for one in batches for start in Start]

    def run(self, settings: ConvergenceSettings, cell: Cell, workspace: Workspace) -> list[Row]:
        del workspace  # seconds of work: nothing to checkpoint
        seeds = settings.seeds(int(cell.labels["batch"] or 0))
        return measure(settings, Start(cell.labels["start"]), seeds)

    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        return [draw_errors(results, folder / "convergence-errors.png")]

    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {
            "Steps until the relative error stays below (median of the instances)": steps_to_reach(
                results
            ),
            "Fitted rate per step, divided by -log ρ(Φ)": rates(results),
            "Gradient after K steps from x* against the series v_j, largest over all K and instances": (
                deviations(results)
            ),
        }
