"""Adjoint solver for foldcore: the exact solve of the assembled system."""

from .config import DirectConfig
from .solver import DirectAdjoint

__all__ = ["DirectAdjoint", "DirectConfig"]
