"""Solver for foldcore: small dense QPs and LPs by DAQP's dual active-set method."""

from .config import DAQPConfig
from .solver import DAQPSolver

__all__ = ["DAQPConfig", "DAQPSolver"]
