"""ScipySession: a batch, sample by sample, from one or several starts each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from foldcore import (
    IterationMap,
    SampleAnswer,
    SampleStart,
    Session,
    SmoothProgram,
    Solution,
    Status,
    collect_answers,
    run_chunks,
    sample_starts,
)

from .config import ScipyConfig
from .evaluation import FEASIBLE, Evaluation, EvaluationError, Floats, UnboundedError
from .slsqp import run_slsqp
from .starts import starting_points
from .trust_constr import run_trust_constr

_METHODS = {"slsqp": run_slsqp, "trust-constr": run_trust_constr}


class ScipySession(Session):
    """Holds nothing: scipy has no model that could be kept."""

    def __init__(self, config: ScipyConfig) -> None:
        self._config = config

    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        """Solve each sample by itself, in float64. See :meth:`Session.solve`."""
        exact = program.double()
        samples = [exact.sample(i) for i in range(program.batch)]
        items = list(zip(samples, sample_starts(warm_start, program.batch), strict=True))
        answers = run_chunks(partial(_solve_chunk, self._config), items, self._config.workers)
        return collect_answers(answers, program)


def _solve_chunk(
    config: ScipyConfig, items: Sequence[tuple[SmoothProgram, SampleStart | None]]
) -> list[SampleAnswer]:
    return [_solve(config, program, warm) for program, warm in items]


def _solve(config: ScipyConfig, program: SmoothProgram, warm: SampleStart | None) -> SampleAnswer:
    """Return the best answer over the sample's starting points."""
    evaluation = Evaluation(program, config.unbounded_below)
    points = starting_points(evaluation, config, warm)
    answers = [_attempt(config, evaluation, point) for point in points]
    best = min(answers, key=lambda answer: _order(evaluation, answer))
    if len(points) == 1:
        return best
    solved = sum(answer.status.ok for answer in answers)
    return replace(
        best,
        message=f"{best.message}; {solved} of {len(points)} starts reached a local optimum",
        iterations=sum(answer.iterations for answer in answers),
    )


def _attempt(config: ScipyConfig, evaluation: Evaluation, point: Floats) -> SampleAnswer:
    if evaluation.pinned:
        return _only_point(evaluation)
    try:
        return _METHODS[config.method](evaluation, config, point)
    except UnboundedError as found:
        return SampleAnswer(Status.UNBOUNDED, f"{config.method}: {found}")
    except EvaluationError as error:
        return SampleAnswer(Status.NUMERICAL, f"{config.method}: {error}")
    # The user's functions may raise anything, as may scipy on what they return; it is the sample's
    # own failure, told by its status, and must not end the others' solves.
    except Exception as error:
        return SampleAnswer(Status.NUMERICAL, f"{config.method}: {type(error).__name__}: {error}")


def _only_point(evaluation: Evaluation) -> SampleAnswer:
    feasible = evaluation.violation(evaluation.lower) <= FEASIBLE
    status = Status.OPTIMAL if feasible else Status.INFEASIBLE
    return SampleAnswer(status, "the bounds leave one point", x=evaluation.lower)


def _order(evaluation: Evaluation, answer: SampleAnswer) -> tuple[int, float]:
    """Unbounded beats every optimum, an optimum every failure; the first of equals is taken."""
    if answer.status is Status.UNBOUNDED:
        return 0, 0.0
    if answer.status.ok and answer.x is not None:
        return 1, evaluation.value(answer.x)
    return 2, 0.0
