"""QpthConfig: the options of the qpth solver."""

from __future__ import annotations

from pydantic import Field

from foldcore import PluginConfig


class QpthConfig(PluginConfig):
    """Options of qpth. Its tolerance is relative, since data are rescaled; see README.md."""

    rtol: float = Field(
        1e-12,
        gt=0,
        description="Sum of primal residual, dual residual and gap to stop at, relative to the size "
        "of the data (dimensionless).",
    )
    max_iter: int = Field(20, ge=1, description="Largest number of interior-point steps (count).")
    check_rtol: float = Field(
        1e-5,
        ge=0,
        description="Largest relative error (dimensionless) of a solution and its derivative in the "
        "check of both; a sample above it is solved anew, or marked as inaccurate.",
    )
