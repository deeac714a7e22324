"""Options of the linear fixed-point iteration."""

from __future__ import annotations

from pydantic import Field

from foldcore.interfaces import IterativeConfig


class LFPIConfig(IterativeConfig):
    """Options of :class:`LFPIAdjoint`."""

    max_iter: int = Field(
        1000, ge=1, description="Largest number of products with Φᵀ per sample (count)."
    )
    anderson: int = Field(
        0,
        ge=0,
        description="Window of Anderson acceleration, in earlier iterates (count); 0 is the plain "
        "iteration.",
    )
