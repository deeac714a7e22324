"""ScipyConfig: the options of the scipy solver."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foldcore import SampleSolverConfig


class ScipyConfig(SampleSolverConfig):
    """Options of the scipy solver.

    Raises:
        ValidationError: If ``rtol`` and ``atol`` are both 0, or ``seed`` is set without restarts.
    """

    method: Literal["slsqp", "trust-constr"] = Field(
        "slsqp",
        description="slsqp: sequential least squares, first derivatives, fast for tens of "
        "variables; trust-constr: a trust-region barrier method with exact Hessians, slower, "
        "sturdier, returns multipliers (name).",
    )
    rtol: float = Field(
        1e-8,
        ge=0,
        description="Tolerance of the first-order conditions relative to 1 + ‖∇f‖∞ "
        "(dimensionless); slsqp tests the objective, to the square of it.",
    )
    atol: float = Field(0.0, ge=0, description="Absolute tolerance, in units of the gradient.")
    max_iter: int = Field(
        1000, ge=1, description="Largest number of iterations of one start (count)."
    )
    start: Literal["midpoint", "zeros"] = Field(
        "midpoint",
        description="Where a sample without a warm start begins: the middle of its bounds (1 inside a "
        "single bound, 0 without bounds), or 0 moved into the bounds (name).",
    )
    restarts: int = Field(
        0,
        ge=0,
        description="Further random starts of every sample (count); the best local optimum is taken.",
    )
    seed: int = Field(
        0, ge=0, description="Seed of the random starts, the same for every sample (number)."
    )
    unbounded_below: float = Field(
        1e15,
        gt=0,
        description="A feasible point whose objective is below minus this proves a sample "
        "unbounded, in units of the objective.",
    )

    @model_validator(mode="after")
    def _check(self) -> ScipyConfig:
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(
                "rtol and atol are both 0, so no point would ever do; set one of them above 0."
            )
        if "seed" in self.model_fields_set and not self.restarts:
            raise ValueError(
                "seed has no effect without restarts; set restarts, or leave seed out."
            )
        return self
