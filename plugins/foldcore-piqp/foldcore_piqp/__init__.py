"""Solver for foldcore: LPs and convex QPs by PIQP's proximal interior-point method."""

from .config import PIQPConfig
from .solver import PIQPSolver

__all__ = ["PIQPConfig", "PIQPSolver"]
