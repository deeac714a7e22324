"""What a method that stopped without converging has found."""

from __future__ import annotations

from foldcore import Status

from .evaluation import Evaluation, Floats

_ACCEPTED = 1e-6
"""Methods that see rounding rather than descent stop near this KKT residual at a solution."""


def judge_stall(
    evaluation: Evaluation, x: Floats, tolerance: float, message: str
) -> tuple[Status, str]:
    """Return the status of a point from which a method makes no progress, and why.

    A method stalls at solutions, where nothing but rounding is left to improve, at points of least
    violation, and where it breaks down; the problem's own data tell these apart.
    """
    if not evaluation.is_feasible(x):
        if evaluation.least_violated(x):
            return Status.INFEASIBLE, f"{message}; no nearby point violates the constraints less"
        return Status.NUMERICAL, f"{message}; at a point that is not feasible"
    residual = evaluation.kkt_residual(x)
    shown = f"{message}; KKT residual {residual:.1e}"
    accepted = residual <= max(tolerance, _ACCEPTED)
    return (Status.OPTIMAL if accepted else Status.NUMERICAL), shown
