"""Options of the projected gradient rule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foldcore import FoldConfig, PluginConfig


class PGDConfig(PluginConfig):
    """Options of ``pgd``."""

    step_size: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        None,
        description="Gradient step α, in units of x per gradient. None: 1/L per sample, L by power "
        "iteration on the Hessian (of the quadratic objective, or at the solution). auto: where a "
        "gradient is needed, the step that minimises ρ(Φ) at the solution, per sample.",
    )
    projection: Literal["auto", "closed_form", "inner"] = Field(
        "auto",
        description="How to project: closed form where the feasible set has one, else by the "
        "inner fold (auto), or one of the two.",
    )
    inner: FoldConfig | None = Field(
        None, description="The fold that solves the projection, a QP with P = I and q = -y."
    )
