"""Dual proximal gradient for foldcore: an update rule, and its accelerated form as a solver."""

from .config import FDPGConfig, FDPGSolverConfig
from .rule import FDPGRule
from .solver import FDPGSolver, fdpg_solve

__all__ = ["FDPGConfig", "FDPGRule", "FDPGSolver", "FDPGSolverConfig", "fdpg_solve"]
