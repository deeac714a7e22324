"""Batches for solvers that know one problem at a time: a loop, or joblib over many cores."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from pydantic import Field
from torch import Tensor

from ..config import IterativeConfig, PluginConfig
from ..errors import UnsupportedError
from ..interfaces.solver import IterationMap, Session, Solver
from ..program.program import SmoothProgram
from ..program.structure import ProgramStructure
from ..solution import Solution, Status
from .sample_answers import (
    BatchAnswer,
    SampleAnswer,
    collect_answers,
    solution_of,
    stack_answers,
)
from .sample_data import BatchData, Floats, SampleData
from .workers import run_chunks, worker_model


class WorkersConfig(PluginConfig):
    """The option that :class:`SampleSolver` itself reads."""

    workers: int = Field(
        1,
        ge=1,
        description="Samples solved at once by joblib (count); its backend is that of the user's "
        "joblib.parallel_config. 1 is a plain loop.",
    )


class SampleSolverConfig(WorkersConfig, IterativeConfig):
    """Options of iterative solvers that take one sample at a time."""


@dataclass(frozen=True)
class SampleStart:
    """An earlier solution of one sample: x (n,) and multipliers, or None where unknown."""

    x: Floats
    equality: Floats | None = None
    inequality: Floats | None = None
    lower: Floats | None = None
    upper: Floats | None = None


class SampleModel(ABC):
    """A native model for one structure, updated from sample to sample. Never pickled."""

    @abstractmethod
    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        """Solve one sample.

        Args:
            data: The whole data of the sample; sound, see :attr:`SampleData.unsound`.
            changed: Fields that may differ from the previous call; all of them at the first.
            start: Where to start from; without one the answer must not depend on earlier calls.
        """

    def solve_rows(self, batch: BatchData, changed: frozenset[str]) -> BatchAnswer | None:
        """Solve a sound batch without starts at once, where that spares work on single samples.

        Invariant: the rows are, bit for bit, the answers of :meth:`solve` for the samples. It is
        asked only where there is one worker.

        Args:
            batch: The whole data of the batch.
            changed: As for :meth:`solve`, of the first sample.

        Returns:
            The answers; None, the default, to be asked for each sample instead, whatever has been
            done until then.
        """
        return None

    def close(self) -> None:  # noqa: B027 - most models hold nothing to release
        """Release native handles."""


class SampleSolver(Solver):
    """Base of solver plugins that solve one sample at a time.

    A plugin gives :meth:`model`; batches, workers, conversion to numpy and back are done here.
    Its config derives from :class:`WorkersConfig`, or from :class:`SampleSolverConfig` if it iterates
    to a tolerance.
    """

    config: WorkersConfig

    @abstractmethod
    def model(self, structure: ProgramStructure, *, single_thread: bool) -> SampleModel:
        """Build a native model.

        Args:
            single_thread: Several workers run at once: the model shall use one thread.
        """

    def open(self, structure: ProgramStructure) -> Session:
        return _SampleSession(self, structure)


_Item = tuple[SampleData, SampleStart | None]


@dataclass(frozen=True)
class _Task:
    """What the chunks of a batch have in common, as it travels to workers with each of them."""

    token: str
    solver: SampleSolver
    structure: ProgramStructure
    batched: frozenset[str]
    changed: frozenset[str]


class _SampleSession(Session):
    def __init__(self, solver: SampleSolver, structure: ProgramStructure) -> None:
        self._solver, self._structure = solver, structure
        self._token = os.urandom(8).hex()
        self._model: SampleModel | None = None
        self._constants: BatchData | None = None

    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        data = program.quadratic
        if data is None:
            raise UnsupportedError(
                f"{type(self._solver).__name__}: the program is not quadratic; use a solver of its class."
            )
        batch = BatchData(data, program.batch, before=self._constants, changed=changed)
        self._constants = batch.without_rows()
        task = _Task(
            token=self._token,
            solver=self._solver,
            structure=self._structure,
            batched=batch.batched,
            changed=changed,
        )
        workers = min(self._solver.config.workers, program.batch)
        if workers == 1 and warm_start is None and not batch.unsound:
            return solution_of(self._run_rows(task, batch, program), program)
        items = _items(batch, warm_start)
        if workers == 1:
            answers = self._run_here(task, items)
        else:
            answers = run_chunks(partial(_run_in_worker, task), items, workers)
        return collect_answers(answers, program)

    def _run_rows(self, task: _Task, batch: BatchData, program: SmoothProgram) -> BatchAnswer:
        if self._model is None:
            self._model = self._solver.model(self._structure, single_thread=False)
            task = replace(task, changed=batch.names)
        try:
            found = self._model.solve_rows(batch, task.changed)
            if found is None:
                found = stack_answers(_run(self._model, task, _items(batch, None)), program)
        except BaseException:  # such as an interrupt: what it left half done must not be used
            self.close()
            raise
        return found

    def _run_here(self, task: _Task, items: Sequence[_Item]) -> list[SampleAnswer]:
        if _all_unsound(items):
            return [_refused(data) for data, _ in items]
        if self._model is None:
            self._model = self._solver.model(self._structure, single_thread=False)
            task = replace(task, changed=_everything(items))
        try:
            return _run(self._model, task, items)
        except BaseException:  # such as an interrupt: what it left half done must not be used
            self.close()
            raise

    def close(self) -> None:
        model, self._model = self._model, None
        if model is not None:
            model.close()


def _items(batch: BatchData, warm_start: Solution | None) -> list[_Item]:
    return list(zip(batch.samples(), sample_starts(warm_start, batch.batch), strict=True))


def _everything(items: Sequence[_Item]) -> frozenset[str]:
    return frozenset(items[0][0].fields)


def _all_unsound(items: Sequence[_Item]) -> bool:
    """Return whether no sample can be sent: a model built now would miss its constants."""
    return all(data.unsound for data, _ in items)


def _refused(data: SampleData) -> SampleAnswer:
    names = ", ".join(data.unsound)
    return SampleAnswer(Status.NUMERICAL, f"the data contain NaN or inf: {names}")


def _run(model: SampleModel, task: _Task, items: Sequence[_Item]) -> list[SampleAnswer]:
    changed = task.changed
    answers = []
    for data, start in items:
        if data.unsound:  # solvers loop for ever on NaN, or call it optimal
            answers.append(_refused(data))
            continue
        answers.append(model.solve(data, changed, start))
        changed = task.batched  # what the batch shares was sent with its first sample
    return answers


def _run_in_worker(task: _Task, items: Sequence[_Item]) -> list[SampleAnswer]:
    """Solve a chunk with the worker's own model, kept for the next call of the same session."""
    if _all_unsound(items):
        return [_refused(data) for data, _ in items]
    build = partial(task.solver.model, task.structure, single_thread=True)
    with worker_model(task.token, build) as (model, fresh):
        if fresh:
            task = replace(task, changed=_everything(items))
        return _run(model, task, items)


def sample_starts(warm_start: Solution | None, batch: int) -> tuple[SampleStart | None, ...]:
    """Return one start per sample; a sample whose earlier solution is not finite starts cold."""
    if warm_start is None:
        return (None,) * batch
    primal = _numpy(warm_start.primal)
    parts: dict[str, Floats] = {}
    if warm_start.duals is not None:
        parts = {name: _numpy(value) for name, value in vars(warm_start.duals).items()}
    return tuple(
        SampleStart(primal[i], **{name: rows[i] for name, rows in parts.items()})
        if np.isfinite(primal[i]).all()
        and all(np.isfinite(rows[i]).all() for rows in parts.values())
        else None
        for i in range(batch)
    )


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().cpu().double().numpy()
    return array
