"""OSQPConfig: the options of the OSQP solver."""

from __future__ import annotations

from pydantic import Field, model_validator

from foldcore import SampleSolverConfig


class OSQPConfig(SampleSolverConfig):
    """Options of OSQP. Defaults are chosen for the accuracy that gradients need.

    Raises:
        ValidationError: If ``rtol`` and ``atol`` are both 0; OSQP could then never stop.
    """

    rtol: float = Field(
        1e-9, ge=0, description="Relative tolerance of primal and dual residual (dimensionless)."
    )
    atol: float = Field(
        1e-9, ge=0, description="Absolute tolerance, in units of the constraints and the gradient."
    )
    max_iter: int = Field(20000, ge=1, description="Largest number of ADMM iterations (count).")
    rho: float = Field(
        0.1, gt=0, description="First ADMM step (dimensionless); every sample starts from it."
    )
    adaptive_rho: bool = Field(
        True, description="Whether rho adapts during a solve (yes/no); badly scaled data need it."
    )
    polishing: bool = Field(
        True,
        description="Whether the active set found is solved once more, to machine accuracy (yes/no).",
    )
    time_limit: float | None = Field(
        None, gt=0, description="Largest time for one sample (seconds); none if not set."
    )
    scaling: int = Field(
        10,
        ge=0,
        description="Passes of Ruiz equilibration of P and the constraints (count); 0 is off.",
    )
    verbose: bool = Field(False, description="Whether OSQP prints its progress (yes/no).")

    @model_validator(mode="after")
    def _some_tolerance(self) -> OSQPConfig:
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(
                "rtol and atol are both 0, so OSQP would never stop; set one of them above 0."
            )
        return self
