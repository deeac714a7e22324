"""Options of the dual proximal gradient rule and solver."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from foldcore import IterativeConfig, PluginConfig


class FDPGConfig(PluginConfig):
    """Options of the rule ``fdpg``."""

    step_size: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        None,
        description="Dual step α, in units of w per Dx. None: 1/‖D P⁻¹ Dᵀ‖₂ per sample, by power "
        "iteration at each call, for D may be learned. auto: where a gradient is "
        "needed, the step that minimises ρ(Φ) at the solution, per sample.",
    )


class FDPGSolverConfig(IterativeConfig):
    """Options of the solver ``fdpg``."""

    rtol: float = Field(
        1e-10, ge=0, description="Largest dual residual ‖U(w) - w‖₂/α relative to ‖w‖₂ (dimensionless)."
    )  # fmt: skip
    atol: float = Field(1e-10, ge=0, description="Largest dual residual, in units of Dx.")
    max_iter: int = Field(20000, ge=1, description="Largest number of steps (count).")
