"""Options of the adjoint solver."""

from __future__ import annotations

from pydantic import Field

from foldcore import IterativeConfig


class ExampleAdjointConfig(IterativeConfig):
    """Options of the adjoint solver; rtol, atol and max_iter come with the base class."""

    max_iter: int = Field(
        1000, ge=1, description="Largest number of products with Φᵀ per sample (count)."
    )
    restart: int = Field(
        30, ge=1, description="Steps between restarts (count); memory is twice as many vectors."
    )
