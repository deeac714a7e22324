"""DAQPConfig: the options of the DAQP solver."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foldcore import SampleSolverConfig


class DAQPConfig(SampleSolverConfig):
    """Options of DAQP. An active-set method ends at the exact solution of its active set, so the
    tolerances decide which constraints are in it.

    Raises:
        ValidationError: If ``rtol`` and ``atol`` are both 0; rounding alone would then be a violation.
    """

    rtol: float = Field(
        1e-10,
        ge=0,
        description="Violation that is accepted, relative to the largest finite right-hand side or "
        "bound (dimensionless); part of DAQP's primal_tol.",
    )
    atol: float = Field(
        1e-10,
        ge=0,
        description="Violation that is accepted, in units of the constraints; primal_tol = "
        "atol + rtol * scale. Where P is singular, atol + rtol is eta_prox.",
    )
    max_iter: int = Field(
        10000, ge=1, description="Largest number of changes of the active set (count); iter_limit."
    )
    time_limit: float | None = Field(
        None,
        gt=0,
        description="Largest time for one sample (seconds), looked at every 32 iterations; none if "
        "not set.",
    )
    eq_reduction: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether equalities are eliminated first (policy): auto does so where P, A and "
        "G are constants, and elsewhere leaves it to DAQP, which does so for singular P alone.",
    )

    @model_validator(mode="after")
    def _some_tolerance(self) -> DAQPConfig:
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(
                "rtol and atol are both 0, so rounding would count as a violation; set one above 0."
            )
        return self
