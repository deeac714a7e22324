"""What the step size experiment is run with."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from ...experiment import Settings
from .problems import PROBLEMS


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
