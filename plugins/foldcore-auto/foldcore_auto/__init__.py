"""Adjoint solver for foldcore: a cascade of methods per sample, cheap first."""

from .config import AutoConfig
from .solver import AutoAdjoint

__all__ = ["AutoAdjoint", "AutoConfig"]
