"""Solver for foldcore: smooth nonlinear problems by scipy's SLSQP and trust-constr."""

from .config import ScipyConfig
from .solver import ScipySolver

__all__ = ["ScipyConfig", "ScipySolver"]
