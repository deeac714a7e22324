"""Options of conjugate gradients."""

from __future__ import annotations

from pydantic import Field

from foldcore.interfaces import IterativeConfig


class CGConfig(IterativeConfig):
    """Options of :class:`CGAdjoint`."""

    max_iter: int = Field(
        1000,
        ge=1,
        description="Largest number of products with Φᵀ, and with Φ, per sample (count), those "
        "that measure the true residual included.",
    )
    normal: bool = Field(
        False,
        description="Solve the normal equations (I - Φ)(I - Φᵀ) v = (I - Φ) g, which need no "
        "symmetry but products with Φ as well, and square the condition number.",
    )
