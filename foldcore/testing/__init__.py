"""Public test tools: what authors of plugins test their own classes with."""

from .operators import (
    MatrixOperator,
    adjoint_residual,
    random_cotangent,
    random_matrix,
    reference_adjoint,
)

__all__ = [
    "MatrixOperator",
    "adjoint_residual",
    "random_cotangent",
    "random_matrix",
    "reference_adjoint",
]
