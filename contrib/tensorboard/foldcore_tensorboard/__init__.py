"""What folded layers do, as scalars in TensorBoard."""

from .logger import MetricsLogger, logging_to

__all__ = ["MetricsLogger", "logging_to"]
