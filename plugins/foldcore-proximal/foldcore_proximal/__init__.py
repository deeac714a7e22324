"""Proximal gradient as an update rule of foldcore."""

from .config import ProximalConfig
from .rule import ProximalRule

__all__ = ["ProximalConfig", "ProximalRule"]
