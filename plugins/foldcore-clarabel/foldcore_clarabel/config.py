"""ClarabelConfig: the options of the Clarabel solver."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from foldcore import SampleSolverConfig


class ClarabelConfig(SampleSolverConfig):
    """Options of Clarabel. Defaults are chosen for the accuracy that gradients need."""

    rtol: float = Field(
        1e-11,
        ge=0,
        description="Relative tolerance of duality gap and residuals (dimensionless); tol_gap_rel "
        "and, unless atol is larger, tol_feas.",
    )
    atol: float = Field(
        1e-11,
        ge=0,
        description="Absolute tolerance of the duality gap, in units of the objective; tol_gap_abs "
        "and, unless rtol is larger, tol_feas.",
    )
    accept: float = Field(
        1e-7,
        ge=0,
        description="Tolerance (dimensionless) at which a point still counts as optimal where "
        "rounding ends progress before rtol and atol are met; the reduced_tol options.",
    )
    cone_tol: float = Field(
        1e-8,
        ge=0,
        description="Least tolerance asked of Clarabel where there are quadratic rows "
        "(dimensionless): on cones it gets no further, and polishing does the rest.",
    )
    polishing: int = Field(
        5,
        ge=0,
        description="Largest number of Newton steps on the active set of a problem with quadratic "
        "rows (count); they end where the residual does not fall any more. 0 is off.",
    )
    max_iter: int = Field(
        200, ge=1, description="Largest number of interior-point iterations (count)."
    )
    time_limit: float | None = Field(
        None, gt=0, description="Largest time for one sample (seconds); none if not set."
    )
    equilibrate: bool = Field(
        True, description="Whether matrices are scaled first (yes/no); equilibrate_enable."
    )
    direct_solve_method: Literal["auto", "qdldl", "faer"] = Field(
        "auto", description="Factorisation of the linear systems (name): faer may use many threads."
    )
    threads: int = Field(
        0,
        ge=0,
        description="Threads of one solve by faer (count); 0 leaves it to Clarabel. Several workers "
        "use one each.",
    )
    verbose: bool = Field(False, description="Whether Clarabel prints its progress (yes/no).")
