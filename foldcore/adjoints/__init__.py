"""Toolkit for adjoint solvers: the frame, the scaled system, GMRES, the assembled matrix."""

from .dense import DenseSolve, refine_adjoint, solve_dense
from .frame import KrylovAdjoint, ScaledAdjoint
from .gmres import gmres_cycle
from .system import AdjointProgress, KrylovCycle, KrylovMethod, ScaledSystem, run_krylov_cycles

__all__ = [
    "AdjointProgress",
    "DenseSolve",
    "KrylovAdjoint",
    "KrylovCycle",
    "KrylovMethod",
    "ScaledAdjoint",
    "ScaledSystem",
    "gmres_cycle",
    "refine_adjoint",
    "run_krylov_cycles",
    "solve_dense",
]
