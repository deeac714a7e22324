"""Adjoint solver for foldcore: batched restarted GMRES."""

from .config import GMRESConfig
from .solver import GMRESAdjoint

__all__ = ["GMRESAdjoint", "GMRESConfig"]
