"""Options of BiCGSTAB."""

from __future__ import annotations

from pydantic import Field

from foldcore.interfaces import IterativeConfig


class BiCGSTABConfig(IterativeConfig):
    """Options of :class:`BiCGSTABAdjoint`."""

    max_iter: int = Field(
        1000,
        ge=1,
        description="Largest number of products with Φᵀ per sample (count), two an iteration and "
        "those that measure the true residual included.",
    )
    restarts: int = Field(
        3,
        ge=0,
        description="Restarts that a sample is granted in a row without progress (count), each "
        "with another shadow vector.",
    )
