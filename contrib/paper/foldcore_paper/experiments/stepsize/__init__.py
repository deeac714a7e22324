"""Appendix D: products and gradient error of fixed-point folding, by step size of the update rule."""

from .experiment import StepSizeExperiment
from .settings import StepSizeSettings

__all__ = ["StepSizeExperiment", "StepSizeSettings"]
