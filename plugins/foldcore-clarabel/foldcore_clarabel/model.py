"""One native Clarabel model: built for a set of matrices, updated by vectors, without memory."""

from __future__ import annotations

from typing import Any

import clarabel
import numpy as np
from scipy.sparse import csc_matrix, triu

from foldcore import Status
from foldcore.interfaces import ProgramStructure
from foldcore.numerics import is_positive_semidefinite
from foldcore.solvers import (
    BatchAnswer,
    BatchData,
    SampleAnswer,
    SampleData,
    SampleModel,
    SampleStart,
)

from .config import ClarabelConfig
from .factor import factor_of
from .polish import Points, Polisher
from .rows import Floats, Limits, QuadraticRow, Rows

_STATUS: dict[str, Status] = {
    "Solved": Status.OPTIMAL,
    "AlmostSolved": Status.OPTIMAL,
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
    "MaxIterations": Status.ITERATION_LIMIT,
    "MaxTime": Status.TIME_LIMIT,
}
_MATRICES = frozenset({"P", "A", "G", "quadratic_P", "quadratic_q"})
_LIMITS = frozenset({"b", "h", "lower", "upper", "quadratic_r"})


class ClarabelModel(SampleModel):
    """Clarabel for one structure.

    Clarabel scales its data once, at construction, by what is there then. So that no sample leaves
    a trace in the results of the next, a model is built from matrices alone, with all vectors 0,
    and vectors are updates. Other matrices, or other limits being infinite, take a new model.
    """

    def __init__(
        self, config: ClarabelConfig, structure: ProgramStructure, *, single_thread: bool
    ) -> None:
        self._config = config
        cones = structure.template.quadratic_r is not None
        self._settings = _settings(config, 1 if single_thread else config.threads, cones=cones)
        self._known_convex = structure.convex is True
        self._convex = True
        self._quadratic_rows: tuple[QuadraticRow, ...] | None = ()
        self._limits = Limits.of(SampleData(structure.n, {}))
        self._present = b""
        self._rows: Rows | None = None
        self._side: Floats | None = None
        self._fresh = True
        self._polisher: Polisher | None = None
        self._native: Any = None

    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        self._take(data, changed)
        if self._limits.contradict:
            words = "not solved: a lower limit exceeds its upper one"
            return SampleAnswer(Status.INFEASIBLE, words)
        refusal = self._refusal()
        if refusal:
            return SampleAnswer(Status.NONCONVEX, refusal)
        rows, side = self._prepare(data)
        q = data.vector("q", data.n, 0.0)
        try:
            found = self._call(data, rows, q, side)
        except Exception as error:  # Clarabel raises nothing more precise
            self._native = None
            return SampleAnswer(Status.NUMERICAL, f"Clarabel refused the data: {error}")
        words = str(found.status)
        status = self._status(words, data)
        if not status.ok:
            return SampleAnswer(status, words, found.iterations)
        points = self._points(rows, q[None], np.array([found.x]), np.array([found.z]))
        duals = {name: part[0] for name, part in rows.duals(points).items()}
        return SampleAnswer(status, words, found.iterations, points.x[0], **duals)

    def solve_rows(self, batch: BatchData, changed: frozenset[str]) -> BatchAnswer | None:
        """Solve samples that differ in q alone, and polish them together."""
        linear = batch.rows("q") if batch.batched == {"q"} else None
        if not isinstance(linear, np.ndarray):
            return None
        data = batch.sample(0)
        self._take(data, changed)
        if self._limits.contradict or self._refusal():
            return None
        rows, side = self._prepare(data)
        verdicts, x, z = [], [], []
        try:
            for q in linear:
                found = self._call(data, rows, q, side)
                words = str(found.status)
                verdicts.append((self._status(words, data), words, int(found.iterations)))
                if verdicts[-1][0].ok:
                    x.append(found.x)
                    z.append(found.z)
        except Exception:  # met again, and named, where the sample is solved alone
            self._native = None
            return None
        solved = np.array([status.ok for status, _, _ in verdicts])
        found_x, found_z = np.array(x).reshape(-1, data.n), np.array(z).reshape(-1, side.size)
        points = self._points(rows, linear[solved], found_x, found_z)
        return BatchAnswer.of_solved(verdicts, points.x, **rows.duals(points))

    def close(self) -> None:
        self._native = None

    def _take(self, data: SampleData, changed: frozenset[str]) -> None:
        """Take note of what changed, and drop what was built from it."""
        if not {"quadratic_P", "quadratic_q"}.isdisjoint(changed):
            self._quadratic_rows = _quadratic_rows(data)
        if "P" in changed and not self._known_convex:
            self._convex = is_positive_semidefinite(data.sparse("P", data.n))
        if not _MATRICES.isdisjoint(changed):
            self._native = self._rows = None
        if not _LIMITS.isdisjoint(changed):
            self._limits, self._side = Limits.of(data), None
            present = b"".join(mask.tobytes() for mask in self._limits.present())
            if present != self._present:
                self._native = self._rows = None
                self._present = present

    def _refusal(self) -> str:
        """Return why Clarabel cannot take these matrices; empty where it can."""
        if self._quadratic_rows is None:
            return "the Hessian of a quadratic row is not positive semidefinite"
        return "" if self._convex else "P is not positive semidefinite"

    def _prepare(self, data: SampleData) -> tuple[Rows, Floats]:
        """Return the rows and their right-hand side, built where they were dropped."""
        if self._rows is None:
            self._rows, self._side = Rows(data, self._limits, self._quadratic_rows or ()), None
        if self._side is None:
            self._side, self._fresh = self._rows.right_hand_side(self._limits), True
            polished = self._quadratic_rows and self._config.polishing
            self._polisher = (
                self._rows.polisher(data, self._side, self._limits) if polished else None
            )
        return self._rows, self._side

    def _call(self, data: SampleData, rows: Rows, q: Floats, side: Floats) -> Any:
        if self._native is None:
            P = csc_matrix(triu(data.sparse("P", data.n), format="csc"))
            zeros = (np.zeros(data.n), np.zeros(side.size))
            self._native = clarabel.DefaultSolver(
                P, zeros[0], rows.matrix, zeros[1], rows.cones(), self._settings
            )
            self._fresh = True
        if self._fresh:
            self._native.update(b=side)
            self._fresh = False
        self._native.update(q=q)
        return self._native.solve()

    def _status(self, words: str, data: SampleData) -> Status:
        status = _STATUS.get(words, Status.NUMERICAL)
        if status is Status.NUMERICAL and not is_positive_semidefinite(data.sparse("P", data.n)):
            # P was declared positive semidefinite, and so not looked at before.
            return Status.NONCONVEX
        return status

    def _points(self, rows: Rows, q: Floats, x: Floats, z: Floats) -> Points:
        """Return the points, polished where that is asked for, of good samples."""
        points = rows.points(x, z)
        if self._polisher is None:
            return points
        tolerance = max(self._config.rtol, self._config.atol)
        return self._polisher.polish(q, points, self._config.polishing, tolerance)


def _quadratic_rows(data: SampleData) -> tuple[QuadraticRow, ...] | None:
    """Return the quadratic rows in factored form; None if one of them is not convex."""
    rows = []
    hessians, vectors = data.fields.get("quadratic_P"), data.fields.get("quadratic_q")
    if not isinstance(hessians, np.ndarray) or not isinstance(vectors, np.ndarray):
        return ()
    for hessian, vector in zip(hessians, vectors, strict=True):
        size = float(np.abs(hessian).max(initial=0.0)) or float(np.abs(vector).max()) or 1.0
        factor = factor_of(hessian / size)
        if factor is None:
            return None
        rows.append(QuadraticRow(factor, vector / size, size))
    return tuple(rows)


def _settings(config: ClarabelConfig, threads: int, *, cones: bool) -> Any:
    settings = clarabel.DefaultSettings()
    floor = config.cone_tol if cones else 0.0
    rtol, atol = max(config.rtol, floor), max(config.atol, floor)
    settings.tol_gap_rel, settings.tol_gap_abs, settings.tol_feas = rtol, atol, max(rtol, atol)
    settings.reduced_tol_gap_rel = max(config.accept, rtol)
    settings.reduced_tol_gap_abs = max(config.accept, atol)
    settings.reduced_tol_feas = max(config.accept, rtol, atol)
    settings.max_iter = config.max_iter
    settings.time_limit = float("inf") if config.time_limit is None else config.time_limit
    settings.equilibrate_enable = config.equilibrate
    settings.direct_solve_method = config.direct_solve_method
    settings.max_threads = threads
    settings.presolve_enable = False  # it drops rows, and then no vector can be updated
    settings.verbose = config.verbose
    return settings
