"""Adjoint solver for foldcore: batched BiCGSTAB with restarts at breakdowns."""

from .config import BiCGSTABConfig
from .solver import BiCGSTABAdjoint

__all__ = ["BiCGSTABAdjoint", "BiCGSTABConfig"]
