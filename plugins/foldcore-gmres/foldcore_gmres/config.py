"""Options of restarted GMRES."""

from __future__ import annotations

from pydantic import Field

from foldcore.interfaces import IterativeConfig


class GMRESConfig(IterativeConfig):
    """Options of :class:`GMRESAdjoint`."""

    max_iter: int = Field(
        1000,
        ge=1,
        description="Largest number of products with Φᵀ per sample (count), those that measure "
        "the true residual included.",
    )
    restart: int = Field(
        50,
        ge=1,
        description="Steps between restarts (count), at most s; memory is restart + 1 vectors of "
        "length s per sample.",
    )
