"""The conformance kit: checks that authors run on their plugins, each tied to a clause of the contract."""

from .catalogue import all_checks
from .check import Check, CheckResult, ConformanceError, Kind, Outcome, Report
from .known_problem import KnownProblem
from .pytest_function import conformance
from .runner import iter_conformance, run_conformance
from .subject import Setting
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
