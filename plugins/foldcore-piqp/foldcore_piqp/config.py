"""PIQPConfig: the options of the PIQP solver."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from foldcore import SampleSolverConfig


class PIQPConfig(SampleSolverConfig):
    """Options of PIQP. Defaults are chosen for the accuracy that gradients need.

    Raises:
        ValidationError: If ``rtol`` and ``atol`` are both 0; PIQP could then never stop.
    """

    rtol: float = Field(
        1e-11,
        ge=0,
        description="Relative tolerance of residuals and duality gap (dimensionless); eps_rel and "
        "eps_duality_gap_rel.",
    )
    atol: float = Field(
        1e-11,
        ge=0,
        description="Absolute tolerance, in units of constraints, gradient and objective; eps_abs "
        "and eps_duality_gap_abs.",
    )
    max_iter: int = Field(
        250, ge=1, description="Largest number of interior-point iterations (count)."
    )
    backend: Literal["auto", "dense", "sparse"] = Field(
        "auto",
        description="Which of PIQP's two solvers works (name); auto takes sparse where P, A or G is "
        "declared sparse.",
    )
    scaling: int = Field(
        10,
        ge=0,
        description="Passes of Ruiz equilibration (count); preconditioner_iter, 0 is off.",
    )
    verbose: bool = Field(False, description="Whether PIQP prints its progress (yes/no).")

    @model_validator(mode="after")
    def _some_tolerance(self) -> PIQPConfig:
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(
                "rtol and atol are both 0, so PIQP would never stop; set one of them above 0."
            )
        return self
