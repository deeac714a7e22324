"""Options of the ADMM rule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foldcore import PluginConfig


class ADMMConfig(PluginConfig):
    """Options of ``admm``."""

    rho: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        1.0,
        description="Penalty ρ, in units of the objective per squared unit of Cx. auto: tr P / tr CᵀC "
        "per sample, 1 where P or C is zero.",
    )
    over_relaxation: float = Field(
        1.0,
        gt=0,
        lt=2,
        description="Relaxation α (dimensionless): Cx enters the second and third step as "
        "αCx + (1-α)z.",
    )
