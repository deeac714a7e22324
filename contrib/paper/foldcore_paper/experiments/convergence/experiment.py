"""The experiment of section 4 as cells: one starting point and one batch of instances each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pydantic import Field

from ...experiment import Cell, Experiment, Row, Settings, Workspace
from .figure import draw_errors
from .measure import Start, measure
from .tables import deviations, rates, steps_to_reach


class ConvergenceSettings(Settings):
    """What is unfolded, from where and how far."""

    instances: int = Field(ge=1, description="Random logits c (count).")
    batch: int = Field(ge=1, description="Instances that one cell unfolds at once (count).")
    classes: int = Field(ge=2, description="n (count).")
    k: int = Field(ge=1, description="Sum of x (count).")
    temperature: float = Field(gt=0, description="τ, in units of c.")
    logit_bound: float = Field(gt=0, description="Bound of |c|, in units of c.")
    floor: float = Field(gt=0, description="Lower bound of x, below every entry of x*.")
    step_size: float = Field(gt=0, description="α of projected gradient descent.")
    iterations: int = Field(ge=1, description="Most steps K unfolded (count).")
    every_step_until: int = Field(ge=1, description="Measure at each K up to here (count).")
    stride: int = Field(ge=1, description="Then at each stride-th K (count).")

    def counts(self) -> list[int]:
        """Return the numbers K of steps at which errors are measured."""
        dense = min(self.every_step_until, self.iterations)
        return [*range(1, dense + 1), *range(dense + self.stride, self.iterations + 1, self.stride)]

    def seeds(self, batch: int) -> range:
        """Return the seeds of the instances of a batch."""
        return range(batch * self.batch, min((batch + 1) * self.batch, self.instances))


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
