"""Toolkit for adjoint solvers: the scaled system, Krylov cycles, the assembled matrix."""

from .dense import DenseSolve, refine_adjoint, solve_dense
from .gmres import gmres_cycle
from .system import AdjointProgress, KrylovCycle, ScaledSystem, run_krylov_cycles

__all__ = [
    "AdjointProgress",
    "DenseSolve",
    "KrylovCycle",
    "ScaledSystem",
    "gmres_cycle",
    "refine_adjoint",
    "run_krylov_cycles",
    "solve_dense",
]
