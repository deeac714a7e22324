"""Toolkit for adjoint solvers: the scaled system, Krylov cycles, the assembled matrix."""
