"""Options of the direct solve."""

from __future__ import annotations

from pydantic import Field

from foldcore import PluginConfig


class DirectConfig(PluginConfig):
    """Options of :class:`DirectAdjoint`."""

    rtol: float = Field(
        1e-8,
        ge=0,
        description="Largest residual of a solution counted as converged, relative to ‖g‖₂ "
        "(dimensionless); at least 50 machine epsilons of the dtype.",
    )
    atol: float = Field(
        0.0, ge=0, description="The same, absolute, in units of the cotangent g; the larger counts."
    )
    refine: int = Field(
        2,
        ge=0,
        description="Largest number of steps of iterative refinement where a residual is above "
        "tolerance (count).",
    )
