"""Base classes of every plugin's configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PluginConfig(BaseModel):
    """Options of one plugin: frozen, unknown options refused, every field described with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class IterativeConfig(PluginConfig):
    """Options that every iterative method shares, under the same names everywhere.

    A fold inside another rule tightens ``rtol`` and ``atol`` to 1/100 of the outer ones where
    they were not set.
    """

    rtol: float = Field(
        1e-8, ge=0, description="Relative tolerance (dimensionless); below a few hundred "
        "machine epsilons of the dtype it has no further effect."
    )  # fmt: skip
    atol: float = Field(0.0, ge=0, description="Absolute tolerance, in units of the residual.")
    max_iter: int = Field(1000, ge=1, description="Largest number of iterations (count).")
