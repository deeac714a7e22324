"""Figure 4a and appendix E.1: decision-focused learning of a nonconvex bilinear problem."""

from .experiment import BilinearExperiment
from .settings import BilinearSettings, Method

__all__ = ["BilinearExperiment", "BilinearSettings", "Method"]
