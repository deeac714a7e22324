"""Options of the update rule."""

from __future__ import annotations

from pydantic import Field

from foldcore import PluginConfig


class ExampleRuleConfig(PluginConfig):
    """Options of the rule."""

    step_size: float | None = Field(
        None,
        gt=0,
        description="Gradient step α, in units of x per gradient; 1/L per sample where it is not "
        "set, L the largest eigenvalue of P.",
    )
    momentum: float = Field(
        0.5, ge=0, lt=1, description="Part β of the last step that is taken again (dimensionless)."
    )
