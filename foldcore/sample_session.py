"""Batches for solvers that know one problem at a time: a loop, or joblib over many cores."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from .errors import UnsupportedError
from .interfaces.solver_interface import IterationMap, Session, Solver
from .plugin_config import IterativeConfig, PluginConfig
from .problem_base import ProgramStructure
from .program import SmoothProgram
from .sample_data import BatchData, Floats, SampleData
from .solution import Duals, Solution, Status
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
class SampleAnswer:
    """What a native model says of one sample.

    Attributes:
        status, message, iterations: As in :class:`Solution`.
        x: Primal (n,), or None where there is none.
        equality, inequality, lower, upper: Multipliers in foldcore's signs, or None where the
            solver gives none; inequality has the rows of G, then the quadratic rows.
    """

    status: Status
    message: str = ""
    iterations: int = 0
    x: Floats | None = None
    equality: Floats | None = None
    inequality: Floats | None = None
    lower: Floats | None = None
    upper: Floats | None = None


@dataclass(frozen=True)
class BatchAnswer:
    """What a native model says of a whole batch: as :class:`SampleAnswer`, one row per sample.

    Attributes:
        status, messages, iterations: One per sample.
        x: (B, n); rows of NaN where there is no point.
        equality, inequality, lower, upper: Multipliers with rows likewise, or all four None.
    """

    status: tuple[Status, ...]
    messages: tuple[str, ...]
    iterations: tuple[int, ...]
    x: Floats
    equality: Floats | None = None
    inequality: Floats | None = None
    lower: Floats | None = None
    upper: Floats | None = None


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
            return _solution(self._run_rows(task, batch, program), program)
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
                found = _stacked_answers(_run(self._model, task, _items(batch, None)), program)
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


def collect_answers(answers: Sequence[SampleAnswer], program: SmoothProgram) -> Solution:
    """Return the answers of a program's samples as one solution, in the program's dtype and device.

    Samples without a point are NaN; NaN or inf under a good status make it NUMERICAL. Duals are
    None unless every solved sample has all of its own.
    """
    return _solution(_stacked_answers(answers, program), program)


def _stacked_answers(answers: Sequence[SampleAnswer], program: SmoothProgram) -> BatchAnswer:
    sizes = {
        "equality": program.n_equality,
        "inequality": program.n_inequality,
        "lower": program.n,
        "upper": program.n,
    }
    duals: dict[str, list[Floats | None]] = {
        "equality": [a.equality for a in answers],
        "inequality": [a.inequality for a in answers],
        "lower": [a.lower for a in answers],
        "upper": [a.upper for a in answers],
    }
    complete = [all(part is not None for part in parts) for parts in zip(*duals.values())]
    known = any(complete) and all(
        whole or not a.status.ok for a, whole in zip(answers, complete, strict=True)
    )
    return BatchAnswer(
        status=tuple(a.status for a in answers),
        messages=tuple(a.message for a in answers),
        iterations=tuple(a.iterations for a in answers),
        x=_stacked([a.x for a in answers], program.n),
        **{name: _stacked(duals[name], size) for name, size in sizes.items() if known},
    )


def _stacked(values: Sequence[Floats | None], size: int) -> Floats:
    unknown = np.full(size, np.nan)
    rows = [unknown if value is None else value for value in values]
    if len(rows) > 1 and all(row is rows[0] for row in rows):
        return np.tile(rows[0], (len(rows), 1))
    return np.array(rows, dtype=np.float64)


def _solution(answer: BatchAnswer, program: SmoothProgram) -> Solution:
    """Return a batch's answer in the program's dtype and device; see :func:`collect_answers`."""
    names = ("x", "equality", "inequality", "lower", "upper")
    arrays = {name: array for name in names if (array := getattr(answer, name)) is not None}
    status, messages = _without_nonfinite(answer, arrays)
    like = torch.empty(0, dtype=program.dtype, device=program.device)
    tensors = {name: torch.from_numpy(array).to(like) for name, array in arrays.items()}
    primal = tensors.pop("x")
    return Solution(
        primal=primal,
        status=status,
        duals=Duals(**tensors) if tensors else None,
        messages=messages,
        iterations=answer.iterations,
    )


def _without_nonfinite(
    answer: BatchAnswer, arrays: Mapping[str, Floats]
) -> tuple[tuple[Status, ...], tuple[str, ...]]:
    """Return statuses and messages; NaN or inf under a good status make it NUMERICAL."""
    # A finite sum has finite terms, and takes less time than looking at each.
    with np.errstate(all="ignore"):
        sound = all(np.isfinite(array.sum()) for array in arrays.values())
    if sound:
        return answer.status, answer.messages
    status, messages = list(answer.status), list(answer.messages)
    finite = np.logical_and.reduce([np.isfinite(array).all(-1) for array in arrays.values()])
    for i in np.flatnonzero(~finite).tolist():
        if status[i].ok:
            status[i], messages[i] = Status.NUMERICAL, f"{messages[i]}, but with NaN or inf"
    return tuple(status), tuple(messages)
