"""Solver for foldcore: batched strictly convex QPs by qpth, differentiable by itself."""

from .config import QpthConfig
from .solver import QpthSolver

__all__ = ["QpthConfig", "QpthSolver"]
