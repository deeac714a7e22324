"""Figures 4b and 6: a learned denoiser by f-FDPG and by qpth."""

from .experiment import DenoisingExperiment
from .settings import DenoisingSettings

__all__ = ["DenoisingExperiment", "DenoisingSettings"]
