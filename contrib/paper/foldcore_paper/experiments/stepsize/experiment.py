"""The experiment of appendix D as cells: one instance of one problem each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from ...experiment import Cell, Experiment, Row, Settings, Workspace
from .figure import draw_steps
from .measure import measure
from .problems import PROBLEMS
from .tables import choices, divergence, working_range


class StepSizeSettings(Settings):
    """Which instances, which step sizes, and when an adjoint solve ends."""

    problems: tuple[str, ...] = Field(description="Names of problems.")
    instances: int = Field(ge=1, description="Instances of each problem (count).")
    size: int = Field(ge=4, description="n (count).")
    smallest_step: float = Field(gt=0, description="Of the grid, relative to the proposed step.")
    largest_step: float = Field(gt=0, description="Of the grid, relative to the proposed step.")
    steps: int = Field(ge=2, description="Step sizes of the grid, logarithmic (count).")
    rtol: float = Field(gt=0, description="Relative residual at which an adjoint solve ends.")
    max_products: int = Field(ge=1, description="Products at which it is given up (count).")
    near: tuple[float, ...] = Field(description="Further steps, relative to the proposed one.")
    series_products: int = Field(
        ge=1, description="Products of the unchecked series, and steps of the drift (count)."
    )

    @field_validator("problems")
    @classmethod
    def _check_problems(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - set(PROBLEMS)):
            raise ValueError(f"unknown: {', '.join(unknown)}; there are: {', '.join(PROBLEMS)}")
        return names

    def grid(self) -> list[float]:
        """Return the step sizes relative to the proposed one."""
        spread = np.geomspace(self.smallest_step, self.largest_step, self.steps)
        return sorted({*(float(step) for step in spread), *self.near})


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
