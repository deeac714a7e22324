"""Solver for foldcore: LPs, convex QPs and convex QCQPs by Clarabel's interior-point method."""

from .config import ClarabelConfig
from .solver import ClarabelSolver

__all__ = ["ClarabelConfig", "ClarabelSolver"]
