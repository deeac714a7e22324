"""Adjoint solver for foldcore: conjugate gradients, on the system itself or its normal equations."""

from .config import CGConfig
from .solver import CGAdjoint

__all__ = ["CGAdjoint", "CGConfig"]
