"""OSQPSession: a batch through one native model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import triu

from foldcore import (
    IterationMap,
    ProgramStructure,
    QuadraticData,
    Session,
    SmoothProgram,
    Solution,
    SparseMatrix,
    Status,
    UnsupportedError,
    is_positive_semidefinite,
    run_chunks,
    worker_model,
)

from . import interrupts
from .config import OSQPConfig
from .layout import Batch, Layout, Sample
from .model import Answer, NativeModel
from .pattern import Floats, flat_values

_MATRICES = ("P", "A", "G")


@dataclass(frozen=True)
class _Task:
    """What the chunks of a batch have in common, as it travels to workers with each of them.

    Attributes:
        token: Of the models that workers keep for these layout and config.
        resend: Whether the matrices may differ from those of the call before.
        differ: Whether they differ from sample to sample.
    """

    token: str
    config: OSQPConfig
    layout: Layout
    resend: bool
    differ: bool


class OSQPSession(Session):
    """A model for one structure, or one for each worker.

    The layout is fixed at the first solve, from the constants that come with it, and the models
    set up then. Data shared by the batch are sent once per call, others once per sample.
    """

    def __init__(self, config: OSQPConfig, structure: ProgramStructure) -> None:
        self._config = config
        self._varying = frozenset(structure.template.varying)
        self._layout: Layout | None = None
        self._model: NativeModel | None = None
        self._token = ""
        self._matrices: dict[str, Floats] = {}

    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        """See :meth:`Session.solve`."""
        data = program.quadratic
        if data is None or data.n_quadratic:
            raise UnsupportedError(
                "osqp: the program is not an LP or QP. Use a solver that offers its class."
            )
        layout = self._prepare(data, changed)
        for field in _MATRICES:
            value = getattr(data, field)
            if value is not None and (field in changed or field not in self._matrices):
                self._matrices[field] = flat_values(value)
        batch = layout.batch(data, self._matrices)
        known = _answered(batch, program.batch)
        if isinstance(data.P, SparseMatrix):
            known = _refuse_nonconvex(layout, batch, known)
        start = _starts(layout, batch, warm_start)
        samples = (batch.sample(i, start) for i, answer in enumerate(known) if answer is None)
        task = _Task(
            token=self._token,
            config=self._config,
            layout=layout,
            resend=bool(changed.intersection(_MATRICES)),
            differ=batch.matrices_differ,
        )
        solved = iter(self._run(task, samples, min(self._config.workers, known.count(None))))
        answers = [next(solved) if answer is None else answer for answer in known]
        return _collect(layout, batch, answers, program)

    def _run(self, task: _Task, samples: Iterable[Sample], workers: int) -> list[Answer]:
        if workers > 1:
            try:
                return run_chunks(partial(_run_in_worker, task), list(samples), workers)
            finally:
                interrupts.restore()
        model = self._model
        if model is None:
            model = self._model = NativeModel(task.config, task.layout)
        try:
            return _solve_all(model, task, samples)
        except BaseException:  # such as an interrupt: what it left half done must not be used
            self._model = None
            raise

    def close(self) -> None:
        self._layout = self._model = None

    def _prepare(self, data: QuadraticData, changed: frozenset[str]) -> Layout:
        if self._layout is None or not changed <= self._layout.varying:
            self._varying |= changed
            self._layout = Layout(data, self._varying, anchor=self._config.polishing)
            self._model, self._token = None, os.urandom(8).hex()
            self._matrices.clear()
        return self._layout


def _run_in_worker(task: _Task, samples: Sequence[Sample]) -> list[Answer]:
    build = partial(NativeModel, task.config, task.layout)
    with worker_model(task.token, build) as (model, _):
        return _solve_all(model, task, samples)


def _solve_all(model: NativeModel, task: _Task, samples: Iterable[Sample]) -> list[Answer]:
    resend, answers = task.resend, []
    for sample in samples:
        answers.append(model.solve(sample, resend=resend))
        resend = task.differ
    return answers


def _answered(batch: Batch, size: int) -> list[Answer | None]:
    """Answer samples that must not reach OSQP: it skips what it refuses and solves older data."""
    crossed = np.broadcast_to((batch.l > batch.u).any(-1), size)
    wrong = np.isnan(batch.l + batch.u).any(-1) | np.zeros(size, dtype=bool)
    parts = [flat for filled in (batch.P, batch.C) for _, flat in filled.batched]
    for values in (batch.q, batch.P.shared, batch.C.shared, *parts):
        wrong = wrong | ~np.isfinite(values).all(-1)
    answers: list[Answer | None] = []
    for bad, empty in zip(wrong, crossed, strict=True):
        if bad:
            answers.append(Answer(Status.NUMERICAL, "the data contain NaN or inf"))
        elif empty:
            answers.append(Answer(Status.INFEASIBLE, "a lower limit exceeds its upper limit"))
        else:
            answers.append(None)
    return answers


def _refuse_nonconvex(
    layout: Layout, batch: Batch, known: list[Answer | None]
) -> list[Answer | None]:
    """Mark samples whose sparse P is indefinite; the layer itself checks dense ones."""
    refusal = Answer(Status.NONCONVEX, "P is not positive semidefinite")
    if not batch.P.batched:
        if any(one is None for one in known) and not _semidefinite(layout.P.matrix(batch.P.row(0))):
            return [one or refusal for one in known]
        return known
    return [
        refusal if one is None and not _semidefinite(layout.P.matrix(batch.P.row(i))) else one
        for i, one in enumerate(known)
    ]


def _semidefinite(upper: Any) -> bool:
    """Return whether a matrix, given by its upper triangle in CSC, is positive semidefinite.

    OSQP factors P + σI + ρCᵀC, and so proves nothing about P.
    """
    semidefinite: bool = is_positive_semidefinite(upper + triu(upper, 1).T)
    return semidefinite


def _starts(layout: Layout, batch: Batch, warm_start: Solution | None) -> tuple[Floats, Floats]:
    """Return x and y to start from: zero, or the warm start where that is finite."""
    if warm_start is None:
        return np.zeros(batch.q.shape[-1]), np.zeros(layout.n_rows)
    x, y = layout.start(warm_start.primal, warm_start.duals)
    usable = (np.isfinite(x).all(-1) & np.isfinite(y).all(-1))[:, None]
    return np.where(usable, x, 0.0), np.where(usable, y, 0.0)


def _collect(
    layout: Layout, batch: Batch, answers: list[Answer], program: SmoothProgram
) -> Solution:
    unknown_x, unknown_y = np.full(layout.n, np.nan), np.full(layout.n_rows, np.nan)
    x = np.stack([unknown_x if a.x is None else a.x[: layout.n] for a in answers])
    y = np.stack([unknown_y if a.y is None else a.y for a in answers])
    like = torch.empty(0, dtype=program.dtype, device=program.device)
    return Solution(
        primal=torch.from_numpy(x).to(like),
        duals=layout.duals(y, batch, like),
        status=tuple(a.status for a in answers),
        messages=tuple(a.message for a in answers),
        iterations=tuple(a.iterations for a in answers),
    )
