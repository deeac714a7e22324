"""Solver for foldcore: LP, QP, QCQP and their nonconvex forms by Gurobi."""

from .config import GurobiConfig
from .solver import GurobiSolver

__all__ = ["GurobiConfig", "GurobiSolver"]
