"""Checks that a solver reads data in every form that a program may hold them in."""

from __future__ import annotations

from collections.abc import Callable

from ..check import CheckList, Kind, require_close
from ..problems.data_forms import fixed_variables, shared_beside_batched, sparse_matrices
from ..problems.known_problem import KnownProblem
from ..subjects.solver import SolverSubject, require_optimal

checks = CheckList(Kind.SOLVER)


def _accepts(known: Callable[[], KnownProblem]) -> Callable[[SolverSubject], str]:
    def refusal(subject: SolverSubject) -> str:
        return subject.refusal(known(), subject.plugin()) or ""

    return refusal


def _require_solved(subject: SolverSubject, known: KnownProblem) -> None:
    run = subject.run(known)
    require_optimal(run, known.name)
    bound = 100 * subject.bound(known)
    require_close(run.solution.primal, known.primal, bound, f"the solution of {known.name}")
    subject.close(run)


@checks(clause=1, condition="accepts convex QPs", applies=_accepts(fixed_variables))
def check_fixed_variables(subject: SolverSubject) -> None:
    """A variable whose bounds coincide has that value, another one in each sample."""
    _require_solved(subject, fixed_variables())


@checks(clause=1, condition="accepts convex QPs", applies=_accepts(sparse_matrices))
def check_sparse_data(subject: SolverSubject) -> None:
    """Sparse matrices are read like dense ones; entries of equal position add up."""
    _require_solved(subject, sparse_matrices())


@checks(clause=3, condition="accepts convex QPs", applies=_accepts(shared_beside_batched))
def check_shared_data(subject: SolverSubject) -> None:
    """Data that the batch shares serve every sample beside data that are each sample's own."""
    _require_solved(subject, shared_beside_batched())
