"""Options of the proximal gradient rule."""

from __future__ import annotations

from pydantic import Field

from foldcore import PluginConfig


class ProximalConfig(PluginConfig):
    """Options of ``proximal``."""

    step_size: float | None = Field(
        None,
        gt=0,
        description="Gradient step α, in units of x per gradient. None: 1/L per sample, L by power "
        "iteration on the Hessian (of the quadratic objective, or at the solution).",
    )
