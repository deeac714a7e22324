"""Options of the cascade."""

from __future__ import annotations

from pydantic import Field

from foldcore.interfaces import IterativeConfig


class AutoConfig(IterativeConfig):
    """Options of :class:`AutoAdjoint`."""

    max_iter: int = Field(
        1000,
        ge=1,
        description="Largest number of products with Φᵀ per sample in the iterative stages (count).",
    )
    contraction_steps: int = Field(
        20, ge=0, description="Largest number of steps of linear fixed-point iteration (count)."
    )
    restart: int = Field(
        50,
        ge=1,
        description="Steps between GMRES' restarts (count), at most s; memory is restart + 1 "
        "vectors of length s per sample.",
    )
    dense_limit: int = Field(
        500,
        ge=0,
        description="Largest s whose I - Φᵀ is assembled where iterations fail, at a cost of "
        "s products and s² numbers per sample (entries).",
    )
    check_unique: bool = Field(
        True,
        description="Test whether I - Φᵀ is singular for samples that an iterative stage served, "
        "by one more GMRES solve: about twice the products.",
    )
