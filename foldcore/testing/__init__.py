"""Public test tools: what authors of plugins test their own classes with."""

from .kit import (
    Check,
    CheckResult,
    ConformanceError,
    Kind,
    KnownProblem,
    Outcome,
    Report,
    Setting,
    all_checks,
    conformance,
    iter_conformance,
    markdown_table,
    run_conformance,
)
from .operators import (
    MatrixOperator,
    adjoint_residual,
    random_cotangent,
    random_matrix,
    reference_adjoint,
)

__all__ = [
    "Check",
    "CheckResult",
    "ConformanceError",
    "Kind",
    "KnownProblem",
    "MatrixOperator",
    "Outcome",
    "Report",
    "Setting",
    "adjoint_residual",
    "all_checks",
    "conformance",
    "iter_conformance",
    "markdown_table",
    "random_cotangent",
    "random_matrix",
    "reference_adjoint",
    "run_conformance",
]
