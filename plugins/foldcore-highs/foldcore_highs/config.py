"""HighsConfig: the options of the HiGHS solver."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from foldcore import SampleSolverConfig


class HighsConfig(SampleSolverConfig):
    """Options of HiGHS, under foldcore's names. Defaults are chosen for the accuracy that gradients need."""

    rtol: float = Field(
        1e-9,
        ge=0,
        description="Relative optimality tolerance of ipm and pdlp (dimensionless): "
        "ipm_optimality_tolerance, at least 1e-12, and pdlp_optimality_tolerance, at least 1e-10.",
    )
    atol: float = Field(
        1e-9,
        ge=0,
        description="Absolute tolerance, in units of the constraints and the gradient: primal, dual and "
        "mip feasibility_tolerance and residual_tolerance, at least 1e-10.",
    )
    max_iter: int = Field(
        100_000,
        ge=1,
        le=2**31 - 1,
        description="Largest number of iterations of each algorithm (count): simplex_, ipm_, pdlp_ "
        "and qp_iteration_limit; of branch-and-bound nodes of an integer LP: mip_max_nodes.",
    )
    mip_rel_gap: float = Field(
        1e-9,
        ge=0,
        description="Integer LPs: largest gap between objective and proven bound, relative to the "
        "objective (dimensionless). HiGHS's own default is 1e-4.",
    )
    method: Literal["choose", "simplex", "ipm", "pdlp"] = Field(
        "choose",
        description="Algorithm for LPs (name); QPs have one, the active-set method, and take "
        "'choose' only. Integer LPs are always solved by branch and cut.",
    )
    time_limit: float | None = Field(
        None, gt=0, description="Largest time for one sample (seconds); none if not set."
    )
    threads: int = Field(
        1,
        ge=1,
        le=8,
        description="Threads of the simplex method for one sample (count); 1 where workers > 1.",
    )
