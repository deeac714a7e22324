"""Options of the direct solve."""

from __future__ import annotations

from pydantic import Field

from foldcore.interfaces import ToleranceConfig


class DirectConfig(ToleranceConfig):
    """Options of :class:`DirectAdjoint`."""

    refine: int = Field(
        2,
        ge=0,
        description="Largest number of steps of iterative refinement where a residual is above "
        "tolerance (count).",
    )
