"""Adjoint solver for foldcore: linear fixed-point iteration, optionally with Anderson acceleration."""

from .config import LFPIConfig
from .solver import LFPIAdjoint

__all__ = ["LFPIAdjoint", "LFPIConfig"]
