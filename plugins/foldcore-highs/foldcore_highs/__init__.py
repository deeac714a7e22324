"""Solver for foldcore: LPs and convex QPs by HiGHS."""

from .config import HighsConfig
from .solver import HighsSolver

__all__ = ["HighsConfig", "HighsSolver"]
