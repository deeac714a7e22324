"""Appendix D: products and gradient error of fixed-point folding, by step size of the update rule."""

from .experiment import StepSizeExperiment, StepSizeSettings

__all__ = ["StepSizeExperiment", "StepSizeSettings"]
