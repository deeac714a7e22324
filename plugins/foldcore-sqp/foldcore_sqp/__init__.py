"""Sequential quadratic programming as an update rule of foldcore."""

from .config import SQPConfig
from .operators import ScaledIdentity
from .rule import SQPRule

__all__ = ["SQPConfig", "SQPRule", "ScaledIdentity"]
