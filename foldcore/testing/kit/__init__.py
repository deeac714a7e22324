"""The conformance kit: checks that authors run on their plugins, each tied to a clause of the contract."""

from ..check import Check, CheckResult, ConformanceError, Kind, Outcome, Report
from ..checks.catalogue import all_checks
from ..problems.known_problem import KnownProblem
from ..subjects.subject import Setting
from .pytest_function import conformance
from .runner import iter_conformance, run_conformance
from .table import markdown_table

__all__ = [
    "Check",
    "CheckResult",
    "ConformanceError",
    "Kind",
    "KnownProblem",
    "Outcome",
    "Report",
    "Setting",
    "all_checks",
    "conformance",
    "iter_conformance",
    "markdown_table",
    "run_conformance",
]
