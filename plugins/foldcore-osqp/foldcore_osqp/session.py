"""OSQPSession: a batch through one native model."""

from __future__ import annotations

import numpy as np
import torch

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
)

from .config import OSQPConfig
from .layout import Batch, Layout
from .model import Answer, NativeModel, is_convex
from .pattern import Floats, flat_values, row_of

_MATRICES = ("P", "A", "G")


class OSQPSession(Session):
    """A model for one structure.

    The layout is fixed at the first solve, from the constants that come with it, and the model
    set up then. Data shared by the batch are sent once per call, others once per sample.
    """

    def __init__(self, config: OSQPConfig, structure: ProgramStructure) -> None:
        self._config = config
        self._varying = frozenset(structure.template.varying)
        self._layout: Layout | None = None
        self._model: NativeModel | None = None
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
        layout, model = self._prepare(data, changed)
        for field in _MATRICES:
            value = getattr(data, field)
            if value is not None and (field in changed or field not in self._matrices):
                self._matrices[field] = flat_values(value)
        batch = layout.batch(data, self._matrices)
        known = _answered(batch, program.batch)
        if isinstance(data.P, SparseMatrix):
            known = _refuse_nonconvex(layout, batch, known)
        x, y = _starts(layout, batch, warm_start)
        resend = not model.built or bool(changed.intersection(_MATRICES))
        answers: list[Answer] = []
        for i, answer in enumerate(known):
            if answer is None:
                answer = model.solve(batch, i, (row_of(x, i), row_of(y, i)), resend=resend)
                resend = batch.matrices_differ
            answers.append(answer)
        return _collect(layout, batch, answers, program)

    def close(self) -> None:
        self._layout = self._model = None

    def _prepare(self, data: QuadraticData, changed: frozenset[str]) -> tuple[Layout, NativeModel]:
        if self._layout is None or self._model is None or not changed <= self._layout.varying:
            self._varying |= changed
            self._layout = Layout(data, self._varying, anchor=self._config.polishing)
            self._model = NativeModel(self._config, self._layout)
            self._matrices.clear()
        return self._layout, self._model


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
        if any(one is None for one in known) and not is_convex(layout.P.matrix(batch.P.row(0))):
            return [one or refusal for one in known]
        return known
    return [
        refusal if one is None and not is_convex(layout.P.matrix(batch.P.row(i))) else one
        for i, one in enumerate(known)
    ]


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
