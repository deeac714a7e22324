"""Figure 3: forward and backward error of unfolded projected gradient descent, by iteration."""

from .experiment import ConvergenceExperiment
from .settings import ConvergenceSettings

__all__ = ["ConvergenceExperiment", "ConvergenceSettings"]
