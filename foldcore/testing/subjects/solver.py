"""A solver under test, run as a layer runs it, and what its runs show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...interfaces.solver import Capabilities, Session, Solver
from ...optimality.kkt import kkt_report
from ...problem.parametric import ParametricProblem
from ...program.program import SmoothProgram
from ...program.structure import ProblemClass
from ...solution import Duals, Solution, Status
from ..check import require
from ..problems.known_problem import KnownProblem
from .settings import Observation
from .side_effects import captured_output
from .subject import ProblemSubject

FLOOR = 1e-10
"""Tolerances below this are not held against a solver: rounding comes first."""

SLACK = 100.0
"""How far a scaled KKT residual may lie above the tolerance that was asked for: norms differ."""


CERTIFICATE = 1e-5
"""Largest scaled KKT residual that a layer accepts without a warning (``kkt.atol``)."""


@dataclass(frozen=True)
class Run:
    """One call of a session: what it was given and what it returned."""

    program: SmoothProgram
    solution: Solution
    session: Session


class SolverSubject(ProblemSubject[Solver]):
    """Opens sessions and solves the kit's problems the way a fold does."""

    @property
    def capabilities(self) -> Capabilities:
        return self.plugin_class.capabilities

    @property
    def representatives(self) -> tuple[KnownProblem, ...]:
        """The first two of each problem class, for checks that solve each problem many times."""
        chosen: dict[ProblemClass, list[KnownProblem]] = {}
        for known in self.supported:
            chosen.setdefault(known.problem.lowered_structure.problem_class, []).append(known)
        return tuple(known for group in chosen.values() for known in group[:2])

    def refusal(self, known: KnownProblem, plugin: Solver) -> str | None:
        """Return why a solver is not run on a problem, or None where it is."""
        if self.capabilities.needs_rule and known.iteration is None:
            return "the kit has no iteration for it"
        return plugin.unsupported_reason(known.problem.lowered_structure)

    @property
    def as_declared(self) -> bool:
        """Whether it receives programs as declared, and not their lowering."""
        return self.capabilities.needs_rule or self.capabilities.regularizers

    def program(self, known: KnownProblem, dtype: torch.dtype = torch.float64) -> SmoothProgram:
        return known.bind(dtype) if self.as_declared else known.lowered(dtype)

    def run(
        self,
        known: KnownProblem,
        *,
        solver: Solver | None = None,
        session: Session | None = None,
        program: SmoothProgram | None = None,
        warm_start: Solution | None = None,
        changed: frozenset[str] | None = None,
    ) -> Run:
        """Solve a known problem and require the answer to have the right shapes.

        Args:
            solver: The base one by default.
            session: An open one; else a new one is opened.
            program: In place of the problem's own data.
            warm_start, changed: As of ``Session.solve``; by default everything varying has changed.
        """
        solver = self.plugin() if solver is None else solver
        program = self.program(known) if program is None else program
        structure = known.problem.lowered_structure
        session = solver.open(structure) if session is None else session
        iteration = None
        if self.capabilities.needs_rule and known.iteration is not None:
            iteration = known.iteration(program)
        solution = session.solve(
            program,
            changed=frozenset(structure.template.varying) if changed is None else changed,
            warm_start=warm_start,
            iteration=iteration,
        )
        _check_shapes(solution, program, known.name)
        return Run(program, solution, session)

    def base_run(self, known: KnownProblem) -> Run:
        """Return the run of a problem under the base configuration, made once."""
        return self.remember(f"run {known.name}", lambda: self.run(known))

    def close(self, run: Run) -> None:
        run.session.close()

    def promised(self) -> float:
        """Return the tolerance that the base configuration asks for; 1e-6 where it has none."""
        config = self.config
        values = [getattr(config, name, None) for name in ("rtol", "atol")]
        known = [value for value in values if isinstance(value, float)]
        return max(*known, FLOOR) if known else 1e-6

    def bound(self, known: KnownProblem) -> float:
        """Return the scaled KKT residual that the base configuration promises on a problem.

        It is never above what layers accept. Where constraints or objective are curved beyond a
        convex QP, methods stop at a gap whose square root is the accuracy of the point.
        """
        promised = self.promised()
        flat = known.problem.lowered_structure.problem_class in (ProblemClass.LP, ProblemClass.QP)
        return min(SLACK * promised if flat else max(SLACK * promised, promised**0.5), CERTIFICATE)

    # What its runs show

    def observable(self) -> Sequence[str]:
        return [known.name for known in self.supported]

    def observe(self, problem: str, options: Mapping[str, Any]) -> Observation | None:
        known = next(known for known in self.supported if known.name == problem)
        solver = self.plugin(**options)
        if self.refusal(known, solver) is not None:
            return None
        with captured_output() as printed, _jobs_asked() as jobs:
            run = self.run(known, solver=solver)
        solution = run.solution
        run.session.close()
        duals = solution.duals
        return {
            "primal": _bits(solution.primal),
            "duals": None if duals is None else [_bits(v) for v in vars(duals).values()],
            "status": solution.status,
            "iterations": solution.iterations,
            "messages": solution.messages,
            "printed": printed.getvalue(),
            "jobs": tuple(jobs),
        }


def residual(run: Run, *, own_duals: bool) -> Tensor:
    """Return the scaled KKT residual per sample, by the solver's multipliers or recovered ones."""
    duals = run.solution.duals if own_duals else None
    return kkt_report(run.program, run.solution.primal.detach(), duals)[0].residual


def require_optimal(run: Run, what: str) -> None:
    """Require every sample to be reported as solved."""
    wrong = [
        f"sample {i}: {status.value} ({_message(run.solution, i)})"
        for i, status in enumerate(run.solution.status)
        if not status.ok
    ]
    require(not wrong, f"{what} is not solved: {'; '.join(wrong)}.")


def _message(solution: Solution, index: int) -> str:
    return solution.messages[index] if solution.messages else "no message"


def _check_shapes(solution: Solution, program: SmoothProgram, what: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {"primal": (program.batch, program.n)}
    given: dict[str, Tensor] = {"primal": solution.primal}
    if solution.duals is not None:
        given.update(vars(solution.duals))
        sizes = (program.n_equality, program.n_inequality, program.n, program.n)
        names = ("equality", "inequality", "lower", "upper")
        shapes.update({k: (program.batch, m) for k, m in zip(names, sizes, strict=True)})
    for name, shape in shapes.items():
        require(
            tuple(given[name].shape) == shape,
            f"on {what}, {name} has shape {tuple(given[name].shape)}, expected {shape}.",
        )
    statuses = solution.status
    require(
        len(statuses) == program.batch and all(isinstance(s, Status) for s in statuses),
        f"on {what}, status is {statuses!r}; expected one Status per sample.",
    )
    for name in ("messages", "iterations"):
        count = len(getattr(solution, name))
        require(
            count in (0, program.batch), f"on {what}, there are {count} {name}; expected none or one "
            f"per sample."
        )  # fmt: skip


def structure_of(problem: ParametricProblem) -> frozenset[str]:
    """Return the names of the quadratic data that vary with a problem's parameters."""
    return frozenset(problem.lowered_structure.template.varying)


def duals_of(run: Run) -> Mapping[str, Tensor]:
    """Return the multipliers by name; empty where the solver gave none."""
    duals: Duals | None = run.solution.duals
    return {} if duals is None else vars(duals)


def _bits(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().numpy().tobytes()


@contextmanager
def _jobs_asked() -> Iterator[list[int]]:
    """Collect the numbers of jobs that joblib is asked for; the work is done by threads."""
    from joblib import parallel_config  # stays out of plain imports
    from joblib.parallel import ThreadingBackend

    asked: list[int] = []

    class Listening(ThreadingBackend):  # type: ignore[misc]
        def configure(self, n_jobs: int = 1, parallel: object = None, **options: Any) -> int:
            asked.append(n_jobs)
            return int(super().configure(n_jobs=n_jobs, parallel=parallel, **options))

    with parallel_config(backend=Listening()):
        yield asked
