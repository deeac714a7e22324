"""Solver for foldcore: LPs, integer LPs and convex QPs by HiGHS."""

from .config import HighsConfig
from .solver import HighsSolver

__all__ = ["HighsConfig", "HighsSolver"]
