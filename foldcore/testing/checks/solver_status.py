"""Checks of what a solver says where there is no solution, or no time to find one."""

from __future__ import annotations

from typing import Any

import torch

from ...solution import Solution
from ..check import CheckList, Kind, require, require_close, require_equal
from ..problems.failing_problems import FailingProblem, failing_problems
from ..subjects.solver import SLACK, SolverSubject, residual, structure_of

checks = CheckList(Kind.SOLVER)


def _failing(subject: SolverSubject, kind: str) -> list[FailingProblem]:
    if subject.capabilities.needs_rule:
        return []
    solver = subject.plugin()
    return [
        failing
        for failing in failing_problems()
        if failing.kind == kind
        and solver.unsupported_reason(failing.problem.lowered_structure) is None
    ]


def _none_infeasible(subject: SolverSubject) -> str:
    accepted = _failing(subject, "infeasible")
    return "" if accepted else "it accepts none of the kit's problems that can be infeasible"


def _none_unbounded(subject: SolverSubject) -> str:
    accepted = _failing(subject, "unbounded")
    return "" if accepted else "it accepts none of the kit's problems that can be unbounded"


def _solve(subject: SolverSubject, failing: FailingProblem, *, fails: bool) -> Solution:
    session = subject.plugin().open(failing.problem.lowered_structure)
    program = failing.bind(failing=fails)
    solution = session.solve(program, changed=structure_of(failing.problem))
    session.close()
    return solution


def _require_reported(subject: SolverSubject, kind: str) -> None:
    for failing in _failing(subject, kind):
        status = _solve(subject, failing, fails=True).status
        require(
            not status[1].ok, f"{failing.name}: a sample that is {kind} is reported as optimal."
        )
        subject.notes.append(f"{failing.name}: reported as {status[1].value}")


@checks(clause=3, condition="accepts problems with constraints", applies=_none_infeasible)
def check_infeasible(subject: SolverSubject) -> None:
    """An infeasible sample is reported by its status; nothing is raised."""
    _require_reported(subject, "infeasible")


@checks(clause=3, condition="accepts problems without a bounded set", applies=_none_unbounded)
def check_unbounded(subject: SolverSubject) -> None:
    """A sample without a lowest value is reported by its status; nothing is raised."""
    _require_reported(subject, "unbounded")


@checks(clause=3, condition="accepts problems with constraints", applies=_none_infeasible)
def check_failed_sample(subject: SolverSubject) -> None:
    """A sample that fails harms no other: theirs is the answer of a batch without it."""
    for failing in (*_failing(subject, "infeasible"), *_failing(subject, "unbounded")):
        given = _solve(subject, failing, fails=True)
        clean = _solve(subject, failing, fails=False)
        for i in (0, 2):
            what = f"sample {i} of {failing.name}, beside the sample that fails,"
            require(
                given.status[i] is clean.status[i],
                f"{what} is {given.status[i].value}; in a sound batch {clean.status[i].value}.",
            )
            if not clean.status[i].ok:
                continue
            if subject.capabilities.native_batch:
                bound = SLACK * subject.promised()
                require_close(given.primal[i], clean.primal[i], bound, what)
            else:
                require_equal(given.primal[i], clean.primal[i], what)


def _limits(subject: SolverSubject) -> list[dict[str, Any]]:
    limits = {"max_iter": 1, "time_limit": 1e-9}
    return [{name: value} for name, value in limits.items() if subject.has_field(name)]


@checks(
    clause=1,
    condition="config fields max_iter or time_limit",
    applies=lambda s: "" if _limits(s) else "it has neither max_iter nor time_limit",
)
def check_limits(subject: SolverSubject) -> None:
    """A run cut short by a limit is not called optimal, unless its point is."""
    for options in _limits(subject):
        solver = subject.plugin(**options)
        for known in subject.supported:
            bound = subject.bound(known)
            run = subject.run(known, solver=solver)
            good = torch.tensor([status.ok for status in run.solution.status])
            if bool(good.any()):
                error = residual(run, own_duals=False)[good]
                require(
                    bool((error <= bound).all()),
                    f"{known.name} under {options} is reported as optimal with a scaled KKT "
                    f"residual of {float(error.max()):.1e}.",
                )
            subject.close(run)
