"""Batches for solvers that know one problem at a time: a loop, or joblib over many cores."""

from __future__ import annotations

import itertools
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar, cast

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

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


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
        items = list(zip(batch.samples(), sample_starts(warm_start, program.batch), strict=True))
        task = _Task(
            token=self._token,
            solver=self._solver,
            structure=self._structure,
            batched=batch.batched,
            changed=changed,
        )
        workers = min(self._solver.config.workers, program.batch)
        if workers == 1:
            answers = self._run_here(task, items)
        else:
            answers = run_chunks(partial(_run_in_worker, task), items, workers)
        return collect_answers(answers, program)

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


class _StoppedError(Exception):
    """Ends a thread whose results nobody waits for any more."""


class _Chunk(list[ItemT]):
    """Items of one worker, whose iteration ends early once the caller was interrupted.

    Threads cannot be killed as processes can: they have to look.
    """

    stop: threading.Event | None = None

    def __iter__(self) -> Iterator[ItemT]:
        for item in super().__iter__():
            if self.stop is not None and self.stop.is_set():
                raise _StoppedError
            yield item

    def __reduce__(self) -> tuple[type[list[ItemT]], tuple[list[ItemT]]]:
        return list, (list(self),)


def run_chunks(
    function: Callable[[Sequence[ItemT]], list[ResultT]], items: Sequence[ItemT], workers: int
) -> list[ResultT]:
    """Return ``function(items)``, computed in up to ``workers`` chunks at once by joblib.

    Args:
        function: Takes consecutive items and returns one result for each. It must be picklable, as
            must items and results, where joblib's backend is one of processes.
        items: What to work on.
        workers: Largest number of chunks; 1 is a plain call.

    Raises:
        KeyboardInterrupt: Of the caller; workers then end at once, threads after the item at hand.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        return function(items)
    from joblib import Parallel, delayed  # stays out of `import foldcore`

    bounds = np.linspace(0, len(items), workers + 1).astype(int).tolist()
    chunks = [_Chunk(items[a:b]) for a, b in itertools.pairwise(bounds)]
    stop = threading.Event()
    for chunk in chunks:
        chunk.stop = stop
    try:
        parts = Parallel(n_jobs=workers)(delayed(function)(chunk) for chunk in chunks)
    except BaseException:
        stop.set()
        raise
    return [result for part in parts for result in part]


class _Closeable(Protocol):
    def close(self) -> None: ...


ModelT = TypeVar("ModelT", bound=_Closeable)

_WORKER_MODELS: OrderedDict[tuple[str, int, int], _Closeable] = OrderedDict()
_WORKER_LIMIT = 64
_WORKER_LOCK = threading.Lock()


@contextmanager
def worker_model(token: str, build: Callable[[], ModelT]) -> Iterator[tuple[ModelT, bool]]:
    """Lend the calling worker's own model, and tell whether it was built for this call.

    The model is kept for the worker's next call, and closed where the block raises or too many are
    kept.

    Args:
        token: What the model belongs to; a session draws one at random.
        build: Makes a model; all of one token have one type.
    """
    key = (token, os.getpid(), threading.get_ident())
    with _WORKER_LOCK:
        kept = cast("ModelT | None", _WORKER_MODELS.pop(key, None))
    model = build() if kept is None else kept
    try:
        yield model, kept is None
    except BaseException:
        model.close()
        raise
    with _WORKER_LOCK:
        _WORKER_MODELS[key] = model
        while len(_WORKER_MODELS) > _WORKER_LIMIT:
            _WORKER_MODELS.popitem(last=False)[1].close()


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
    like = torch.empty(0, dtype=program.dtype, device=program.device)
    sizes = {
        "equality": program.n_equality,
        "inequality": program.n_inequality,
        "lower": program.n,
        "upper": program.n,
    }
    complete = [
        a.equality is not None
        and a.inequality is not None
        and a.lower is not None
        and a.upper is not None
        for a in answers
    ]
    arrays = {"x": _stacked([a.x for a in answers], program.n)}
    if any(complete) and all(
        known or not a.status.ok for a, known in zip(answers, complete, strict=True)
    ):
        for name, size in sizes.items():
            arrays[name] = _stacked([getattr(a, name) for a in answers], size)
    answers = _without_nonfinite(answers, arrays)
    tensors = {name: torch.from_numpy(array).to(like) for name, array in arrays.items()}
    primal = tensors.pop("x")
    return Solution(
        primal=primal,
        status=tuple(a.status for a in answers),
        duals=Duals(**tensors) if tensors else None,
        messages=tuple(a.message for a in answers),
        iterations=tuple(a.iterations for a in answers),
    )


def _stacked(values: Sequence[Floats | None], size: int) -> Floats:
    unknown = np.full(size, np.nan)
    rows = [unknown if value is None else value for value in values]
    if len(rows) > 1 and all(row is rows[0] for row in rows):
        return np.tile(rows[0], (len(rows), 1))
    return np.array(rows, dtype=np.float64)


def _without_nonfinite(
    answers: Sequence[SampleAnswer], arrays: Mapping[str, Floats]
) -> list[SampleAnswer]:
    finite = np.logical_and.reduce([np.isfinite(array).all(-1) for array in arrays.values()])
    if finite.all():
        return list(answers)
    return [
        replace(a, status=Status.NUMERICAL, message=f"{a.message}, but with NaN or inf")
        if a.status.ok and not good
        else a
        for a, good in zip(answers, finite.tolist(), strict=True)
    ]
