"""Batched numbers: products, linear solves, eigenvalues, sparse matrices. Knows no problem."""

from .acceleration import Accelerated, accelerate
from .definiteness import (
    factor_definite,
    is_positive_definite,
    is_positive_semidefinite,
    solve_factored,
)
from .eigenvalues import largest_eigenvalue, operator_norm
from .minimum_norm import MinimumNorm, minimum_norm
from .products import concatenate, matvec, rmatvec, to_dense
from .solving import Factorisation, factor_square, solve_checked, solve_square
from .sparse import SparseMatrix

__all__ = [
    "Accelerated",
    "Factorisation",
    "MinimumNorm",
    "SparseMatrix",
    "accelerate",
    "concatenate",
    "factor_definite",
    "factor_square",
    "is_positive_definite",
    "is_positive_semidefinite",
    "largest_eigenvalue",
    "matvec",
    "minimum_norm",
    "operator_norm",
    "rmatvec",
    "solve_checked",
    "solve_factored",
    "solve_square",
    "to_dense",
]
