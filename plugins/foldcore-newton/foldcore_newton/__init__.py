"""A Newton step on the KKT system as an update rule of foldcore."""

from .config import NewtonConfig
from .rule import NewtonRule

__all__ = ["NewtonConfig", "NewtonRule"]
