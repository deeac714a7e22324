"""Options of the proximal gradient rule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foldcore import PluginConfig


class ProximalConfig(PluginConfig):
    """Options of ``proximal``."""

    step_size: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        None,
        description="Gradient step α, in units of x per gradient. None: 1/L per sample, L by power "
        "iteration on the Hessian (of the quadratic objective, or at the solution). auto: where a "
        "gradient is needed, the step that minimises ρ(Φ) at the solution, per sample.",
    )
