"""PIQP for one structure: matrices converted once, samples updated where that leaves no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import piqp
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from foldcore import Sparse, Status
from foldcore.interfaces import ProgramStructure
from foldcore.numerics import is_positive_semidefinite
from foldcore.solvers import SampleAnswer, SampleData, SampleModel, SampleStart

from .config import PIQPConfig

Floats = NDArray[np.float64]

_STATUS: dict[int, Status] = {
    int(piqp.PIQP_SOLVED): Status.OPTIMAL,
    int(piqp.PIQP_PRIMAL_INFEASIBLE): Status.INFEASIBLE,
    int(piqp.PIQP_DUAL_INFEASIBLE): Status.UNBOUNDED,
    int(piqp.PIQP_MAX_ITER_REACHED): Status.ITERATION_LIMIT,
}


class PIQPModel(SampleModel):
    """minimise ½ xᵀPx + cᵀx  s.t.  Ax = b, Gx <= h_u, x_l <= x <= x_u.

    PIQP's update scales its matrices back and forth, even when it is told to keep the scaling, and
    so leaves traces of earlier updates in the last bits of later solves; and it erases rows of G
    whose limit is infinite for good. Each sample is therefore set up anew in the same solver,
    without the rows that are absent. Without scaling, samples that differ in q alone are updates.
    """

    def __init__(self, config: PIQPConfig, structure: ProgramStructure) -> None:
        template = structure.template
        sparse = any(isinstance(m, Sparse) for m in (template.P, template.A, template.G))
        self._sparse = sparse if config.backend == "auto" else config.backend == "sparse"
        self._known_convex = structure.convex is True
        self._matrices: dict[str, Any] = {}
        self._kept: NDArray[np.bool_] | None = None
        self._reduced: Any = None
        self._convex = True
        self._ready = False
        self._updates = config.scaling == 0
        self._native = piqp.SparseSolver() if self._sparse else piqp.DenseSolver()
        _configure(self._native.settings, config)

    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        n, p, m = data.n, data.count("b"), data.count("h")
        if not changed <= {"q"}:
            self._ready = False
        for name, rows in (("P", n), ("A", p), ("G", m)):
            if name in changed or name not in self._matrices:
                self._matrices[name] = self._matrix(data, name, rows)
                self._kept = None if name == "G" else self._kept
        if "P" in changed and not self._known_convex:
            self._convex = is_positive_semidefinite(self._matrices["P"])
        lower, upper = data.vector("lower", n, -np.inf), data.vector("upper", n, np.inf)
        h = data.vector("h", 0, np.inf)
        empty = (lower > upper) | (lower == np.inf) | (upper == -np.inf)
        if empty.any() or (h == -np.inf).any():
            return SampleAnswer(
                Status.INFEASIBLE, "not solved: a lower limit exceeds its upper one"
            )
        if not self._convex:
            return SampleAnswer(Status.NONCONVEX, "not solved: P is not positive semidefinite")
        G, kept = self._rows(h < np.inf)
        b, limit = data.vector("b", 0, 0.0), h[kept]
        vectors = (data.vector("q", n, 0.0), b, limit, lower, upper)
        return self._run(G, kept, vectors)

    def _run(self, G: Any, kept: NDArray[np.bool_], vectors: tuple[Floats, ...]) -> SampleAnswer:
        q, b, h, lower, upper = (np.array(vector) for vector in vectors)
        below = np.full(h.size, -np.inf)
        P, A = self._matrices["P"], self._matrices["A"]
        try:
            if self._ready:
                self._native.update(c=q)
            else:
                self._native.setup(P, q, A, b, G, below, h, lower, upper)
            found = self._native.solve()
            self._ready = self._updates
        except (ValueError, RuntimeError, TypeError) as error:
            self._ready = False
            return SampleAnswer(Status.NUMERICAL, f"PIQP refused the data: {error!r}")
        result = self._native.result
        status, iterations = _STATUS.get(int(found), Status.NUMERICAL), int(result.info.iter)
        if status in (Status.NUMERICAL, Status.ITERATION_LIMIT) and not is_positive_semidefinite(P):
            # P was declared positive semidefinite, and so not looked at before.
            status = Status.NONCONVEX
        if not status.ok:
            return SampleAnswer(status, found.name, iterations)
        inequality = np.zeros(kept.size)
        inequality[kept] = result.z_u
        # PIQP hands out views of memory that its next solve overwrites.
        return SampleAnswer(
            status=status,
            message=found.name,
            iterations=iterations,
            x=np.array(result.x),
            equality=np.array(result.y),
            inequality=inequality,
            lower=np.where(np.isfinite(lower), result.z_bl, 0.0),
            upper=np.where(np.isfinite(upper), result.z_bu, 0.0),
        )

    def _matrix(self, data: SampleData, name: str, rows: int) -> Any:
        if self._sparse:
            return csc_matrix(data.sparse(name, rows))
        return np.array(data.dense(name, rows), order="F")

    def _rows(self, kept: NDArray[np.bool_]) -> tuple[Any, NDArray[np.bool_]]:
        """Return the rows of G that are there, kept until others are."""
        if self._kept is None or not np.array_equal(kept, self._kept):
            G = self._matrices["G"]
            whole = bool(kept.all())
            if whole or not self._sparse:
                self._reduced = G if whole else np.asfortranarray(G[kept])
            else:
                self._reduced = csc_matrix(G[np.flatnonzero(kept)])
            self._kept = kept
        return self._reduced, kept


def _configure(settings: Any, config: PIQPConfig) -> None:
    settings.eps_abs = settings.eps_duality_gap_abs = config.atol
    settings.eps_rel = settings.eps_duality_gap_rel = config.rtol
    settings.max_iter = config.max_iter
    settings.preconditioner_iter = config.scaling
    settings.verbose = config.verbose
