"""Solver for foldcore: LPs and convex QPs by OSQP's operator splitting."""

from .config import OSQPConfig
from .solver import OSQPSolver

__all__ = ["OSQPConfig", "OSQPSolver"]
