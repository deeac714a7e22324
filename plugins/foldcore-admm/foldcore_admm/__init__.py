"""The alternating direction method of multipliers for LP and QP as an update rule of foldcore."""

from .config import ADMMConfig
from .rule import ADMMRule

__all__ = ["ADMMConfig", "ADMMRule"]
