"""Options of the dual proximal gradient rule and solver."""

from __future__ import annotations

from pydantic import Field

from foldcore import IterativeConfig, PluginConfig


class FDPGConfig(PluginConfig):
    """Options of the rule ``fdpg``."""

    step_size: float | None = Field(
        None,
        gt=0,
        description="Dual step α, in units of w per Dx. None: 1/‖D P⁻¹ Dᵀ‖₂ per sample, by power "
        "iteration at each call, for D may be learned.",
    )


class FDPGSolverConfig(IterativeConfig):
    """Options of the solver ``fdpg``."""

    rtol: float = Field(
        1e-10, ge=0, description="Largest dual residual ‖U(w) - w‖₂/α relative to ‖w‖₂ (dimensionless)."
    )  # fmt: skip
    atol: float = Field(1e-10, ge=0, description="Largest dual residual, in units of Dx.")
    max_iter: int = Field(20000, ge=1, description="Largest number of steps (count).")
