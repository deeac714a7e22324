"""Options of the SQP rule."""

from __future__ import annotations

from pydantic import Field

from foldcore import FoldConfig, PluginConfig


class SQPConfig(PluginConfig):
    """Options of ``sqp``."""

    step_size: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Fraction α of the QP's step that is taken (dimensionless). 1 gives Φ = 0, "
        "anything less Φ = (1-α)I.",
    )
    dual_state: bool = Field(
        False,
        description="Whether the state is (x, multipliers) instead of x alone (yes/no). Duals are "
        "then part of the fixed point, and Φ is measured by products.",
    )
    inner: FoldConfig | None = Field(
        None, description="The fold that solves the quadratic subproblem, a strictly convex QP."
    )
