"""Projected gradient descent as an update rule of foldcore."""

from .config import PGDConfig
from .rule import PGDRule

__all__ = ["PGDConfig", "PGDRule"]
