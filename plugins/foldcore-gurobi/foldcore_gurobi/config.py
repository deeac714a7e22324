"""GurobiConfig: the options of the Gurobi solver."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from foldcore import SampleSolverConfig

from .parameters import Value, checked


class GurobiConfig(SampleSolverConfig):
    """Options of Gurobi, under foldcore's names; ``parameters`` reaches every other one.

    Raises:
        ValidationError: If a name in ``parameters`` is unknown to Gurobi or its value does not fit.
    """

    rtol: float = Field(
        1e-9,
        ge=0,
        description="Relative gap at which the barrier method stops (dimensionless): BarConvTol "
        "and BarQCPConvTol, the latter at least 1e-9.",
    )
    atol: float = Field(
        1e-9,
        ge=0,
        description="Absolute tolerance, in units of the constraints and the gradient: "
        "FeasibilityTol, OptimalityTol, within Gurobi's range of 1e-9 to 1e-2.",
    )
    max_iter: int = Field(
        1_000_000,
        ge=1,
        le=2**31 - 1,
        description="Largest number of iterations (count): IterationLimit of the simplex methods, "
        "BarIterLimit of the barrier method, NodeLimit of the nonconvex search.",
    )
    time_limit: float | None = Field(
        None, gt=0, description="Largest time for one sample (seconds): TimeLimit; none if not set."
    )
    mip_gap: float = Field(
        1e-6,
        ge=0,
        description="Relative gap to the global optimum of nonconvex problems (dimensionless): "
        "MIPGap.",
    )
    threads: int = Field(
        1,
        ge=0,
        description="Threads for one sample (count): Threads; 0 is Gurobi's choice, and 1 is taken "
        "where workers > 1.",
    )
    parameters: Mapping[str, Value] = Field(
        default_factory=dict,
        description="Any of Gurobi's parameters by name (each in Gurobi's unit); they win over the "
        "options above.",
    )

    @field_validator("parameters")
    @classmethod
    def _known(cls, parameters: Mapping[str, Value]) -> Mapping[str, Value]:
        return checked(parameters)
