"""One native Clarabel model: built for a set of matrices, updated by vectors, without memory."""

from __future__ import annotations

from typing import Any

import clarabel
import numpy as np
from scipy.sparse import csc_matrix, triu

from foldcore import ProgramStructure, SampleAnswer, SampleData, SampleModel, SampleStart, Status

from .config import ClarabelConfig
from .convexity import factor_of, is_convex
from .polish import Polisher
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
        self._native: Any = None
        self._rows: Rows | None = None
        self._limits: Limits | None = None
        self._contradict = False
        self._present: bytes = b""
        self._quadratic_rows: tuple[QuadraticRow, ...] = ()
        self._refusal = ""
        self._side: Floats | None = None
        self._polisher: Polisher | None = None

    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        if not _MATRICES.isdisjoint(changed):
            self._native = None
            self._refusal = self._examine(data, changed)
        if self._limits is None or not _LIMITS.isdisjoint(changed):
            self._limits, self._side = Limits.of(data), None
            self._contradict = self._limits.contradict
            present = b"".join(mask.tobytes() for mask in self._limits.present())
            if present != self._present:
                self._native, self._present = None, present
        if self._contradict:
            return SampleAnswer(
                Status.INFEASIBLE, "not solved: a lower limit exceeds its upper one"
            )
        if self._refusal:
            return SampleAnswer(Status.NONCONVEX, self._refusal)
        try:
            rows = self._load(data, self._limits)
            answer = self._native.solve()
        except Exception as error:  # Clarabel raises nothing more precise
            self._native = None
            return SampleAnswer(Status.NUMERICAL, f"Clarabel refused the data: {error}")
        return self._translate(answer, rows, data)

    def close(self) -> None:
        self._native = None

    def _translate(self, found: Any, rows: Rows, data: SampleData) -> SampleAnswer:
        words = str(found.status)
        status = _STATUS.get(words, Status.NUMERICAL)
        if status is Status.NUMERICAL and not is_convex(data.sparse("P", data.n)):
            # P was declared positive semidefinite, and so not looked at before.
            status = Status.NONCONVEX
        if not status.ok:
            return SampleAnswer(status, words, found.iterations)
        point = rows.point(np.array(found.x), np.array(found.z))
        if self._polisher is not None:
            tolerance = max(self._config.rtol, self._config.atol)
            q = data.vector("q", data.n, 0.0)
            point = self._polisher.polish(q, point, self._config.polishing, tolerance)
        return SampleAnswer(status, words, found.iterations, x=point.x, **rows.duals(point))

    def _examine(self, data: SampleData, changed: frozenset[str]) -> str:
        """Factor the Hessians of quadratic rows; return why Clarabel cannot take these matrices."""
        if not {"quadratic_P", "quadratic_q"}.isdisjoint(changed):
            found = _quadratic_rows(data)
            if found is None:
                return "the Hessian of a quadratic row is not positive semidefinite"
            self._quadratic_rows = found
        if not self._known_convex and not is_convex(data.sparse("P", data.n)):
            return "P is not positive semidefinite"
        return ""

    def _load(self, data: SampleData, limits: Limits) -> Rows:
        if self._native is None or self._rows is None:
            self._rows, self._side = Rows(data, limits, self._quadratic_rows), None
            P = csc_matrix(triu(data.sparse("P", data.n), format="csc"))
            A = self._rows.matrix
            zeros = (np.zeros(data.n), np.zeros(A.shape[0]))
            cones = self._rows.cones()
            self._native = clarabel.DefaultSolver(P, zeros[0], A, zeros[1], cones, self._settings)
        if self._side is None:
            side = self._side = self._rows.right_hand_side(limits)
            self._native.update(b=side)
            polished = self._quadratic_rows and self._config.polishing
            self._polisher = self._rows.polisher(data, side, limits) if polished else None
        self._native.update(q=data.vector("q", data.n, 0.0))
        return self._rows


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
