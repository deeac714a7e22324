"""One native Gurobi model: built once, updated by what changed, with no memory of earlier samples."""

from __future__ import annotations

from collections.abc import Mapping

import gurobipy as gp
import numpy as np
from gurobipy import GRB
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from foldcore import Status
from foldcore.interfaces import ProblemClass, ProgramStructure
from foldcore.solvers import (
    BatchAnswer,
    BatchData,
    SampleAnswer,
    SampleData,
    SampleModel,
    SampleStart,
)

from .config import GurobiConfig
from .licence import environment
from .model_parameters import parameters_for

Floats = NDArray[np.float64]

_STATUS: dict[str, Status] = {
    "OPTIMAL": Status.OPTIMAL,
    "LOCALLY_OPTIMAL": Status.OPTIMAL,  # only where parameters ask for a local search
    "INFEASIBLE": Status.INFEASIBLE,
    "UNBOUNDED": Status.UNBOUNDED,
    "ITERATION_LIMIT": Status.ITERATION_LIMIT,
    "NODE_LIMIT": Status.ITERATION_LIMIT,
    "TIME_LIMIT": Status.TIME_LIMIT,
    "WORK_LIMIT": Status.TIME_LIMIT,
    "SUBOPTIMAL": Status.INACCURATE,
}

_WORDS = {getattr(GRB.Status, name): name for name in dir(GRB.Status) if name.isupper()}

_NO_DUALS = (GRB.Error.DATA_NOT_AVAILABLE, GRB.Error.NOT_FOR_MIP)

_LIMITS = frozenset({"h", "lower", "upper", "quadratic_r"})

_QUADRATIC = frozenset({"quadratic_P", "quadratic_q", "quadratic_r"})

_EVERYTHING = frozenset({"P", "A", *_LIMITS, *_QUADRATIC}) - {"h"}
"""What a fresh model is sent; q travels with P, and b, G and h with A."""


class GurobiModel(SampleModel):
    """minimise ½ xᵀPx + qᵀx  s.t.  Ax = b, Gx <= h, quadratic rows, bounds.

    Rows keep the order A, G whatever changes, so that an updated model is a fresh one to Gurobi.
    """

    def __init__(
        self, config: GurobiConfig, structure: ProgramStructure, *, single_thread: bool
    ) -> None:
        self._parameters = parameters_for(config, structure, single_thread=single_thread)
        self._searches = structure.convex is False
        self._linear = structure.problem_class is ProblemClass.LP
        self._model = gp.Model(env=environment())
        for name, value in self._parameters.items():
            self._model.setParam(name, value)
        self._x = self._model.addMVar(structure.n, lb=-GRB.INFINITY)
        self._rows: dict[str, gp.MConstr] = {}
        self._curved: dict[int, gp.QConstr] = {}
        self._has_lower = self._has_upper = np.zeros(structure.n, dtype=bool)
        self._pending: frozenset[str] = frozenset()
        self._built = False

    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        self._pending |= changed
        if self._pending & _LIMITS and _is_empty(data):
            return SampleAnswer(Status.INFEASIBLE, "not solved: a lower limit is +inf, or h -inf")
        try:
            self._send(data)
            self._model.reset(1)
            if start is not None:
                self._set_start(start)
            self._model.optimize()
            return self._answer(data)
        except (gp.GurobiError, ValueError) as error:
            self._built = False
            code = getattr(error, "errno", None)
            status = Status.NONCONVEX if code == GRB.Error.Q_NOT_PSD else Status.NUMERICAL
            return SampleAnswer(status, f"Gurobi: {error}")

    def solve_rows(self, batch: BatchData, changed: frozenset[str]) -> BatchAnswer | None:
        """Solve samples that differ in q alone, and translate their multipliers together."""
        linear = batch.rows("q") if batch.batched == {"q"} else None
        if not isinstance(linear, np.ndarray):
            return None
        self._pending |= changed
        data = batch.sample(0)
        if self._pending & _LIMITS and _is_empty(data):
            return None
        verdicts, x, slopes = [], [], []
        try:
            for i, cost in enumerate(linear):
                if i and not self._pending:
                    self._x.setAttr("Obj", cost)
                else:  # as after a sample that took another objective to judge
                    self._send(batch.sample(i))
                self._model.reset(1)
                self._model.optimize()
                verdicts.append(self._verdict(data.n))
                if verdicts[-1][0].ok:
                    x.append(self._x.getAttr("X"))
                    slopes.append(self._slopes())
        except (gp.GurobiError, ValueError):  # met again, and named, where the sample is alone
            self._built = False
            return None
        known = [one for one in slopes if one is not None]
        duals = {}
        if known and len(known) == len(x):
            duals = self._duals({k: np.array([one[k] for one in known]) for k in known[0]}, data)
        points = np.array(x).reshape(-1, data.n)
        return BatchAnswer.of_solved(verdicts, points, **duals)

    def close(self) -> None:
        self._model.dispose()

    def _send(self, data: SampleData) -> None:
        n, pending = data.n, self._pending
        if not self._built:
            pending = _EVERYTHING
        if pending & {"A", "G"}:
            self._send_rows(data)
        else:
            for name, field in (("A", "b"), ("G", "h")):
                if field in pending:
                    self._rows[name].setAttr("RHS", data.vector(field, 0, 0.0))
        if "lower" in pending:
            lower = data.vector("lower", n, -np.inf)
            self._x.setAttr("LB", lower)
            self._has_lower = np.isfinite(lower)
        if "upper" in pending:
            upper = data.vector("upper", n, np.inf)
            self._x.setAttr("UB", upper)
            self._has_upper = np.isfinite(upper)
        if "P" in pending:
            self._send_objective(data.sparse("P", n), data.vector("q", n, 0.0))
        elif "q" in pending:
            self._x.setAttr("Obj", data.vector("q", n, 0.0))
        self._send_curved(data, pending & _QUADRATIC)
        if pending & {"A", "G", *_QUADRATIC}:
            self._model.update()  # rows take attributes only once they are in the model
        self._built, self._pending = True, frozenset()

    def _send_objective(self, hessian: csc_matrix, cost: Floats) -> None:
        x = self._x
        self._model.setMObjective(hessian / 2, cost, 0.0, xQ_L=x, xQ_R=x, xc=x)

    def _send_rows(self, data: SampleData) -> None:
        for row in self._rows.values():
            self._model.remove(row)
        self._rows = {}
        for name, field, sense in (("A", "b", GRB.EQUAL), ("G", "h", GRB.LESS_EQUAL)):
            count = data.count(field)
            if count:
                right = data.vector(field, count, 0.0)
                matrix = data.sparse(name, count)
                self._rows[name] = self._model.addMConstr(matrix, self._x, sense, right)

    def _send_curved(self, data: SampleData, pending: frozenset[str]) -> None:
        if not pending or "quadratic_r" not in data.fields:
            return
        right = data.vector("quadratic_r", 0, 0.0)
        if np.isnan(right).any():
            raise ValueError("quadratic_r contains NaN")
        kept = [int(i) for i in np.flatnonzero(right < np.inf)]
        if pending == {"quadratic_r"} and kept == list(self._curved):
            for i, row in self._curved.items():
                row.QCRHS = right[i]
            return
        for row in self._curved.values():
            self._model.remove(row)
        hessians, slopes = data.fields["quadratic_P"], data.fields["quadratic_q"]
        if not isinstance(hessians, np.ndarray) or not isinstance(slopes, np.ndarray):
            raise ValueError("quadratic rows must be dense")
        x = self._x
        self._curved = {
            i: self._model.addMQConstr(  # type: ignore[call-overload]  # the stubs forget rhs
                hessians[i] / 2, slopes[i], GRB.LESS_EQUAL, right[i], xQ_L=x, xQ_R=x, xc=x
            )
            for i in kept
        }

    def _set_start(self, start: SampleStart) -> None:
        """Start an LP from its vertex, a search from its incumbent; Gurobi's QP methods take none."""
        if self._searches:
            self._x.setAttr("Start", start.x)
            return
        if not self._linear or start.equality is None or start.inequality is None:
            return
        self._x.setAttr("PStart", start.x)
        for name, multipliers in (("A", start.equality), ("G", start.inequality)):
            if name in self._rows:
                row = self._rows[name]
                row.setAttr("DStart", -multipliers[: row.size])

    def _answer(self, data: SampleData) -> SampleAnswer:
        status, message, iterations = self._verdict(data.n)
        if not status.ok:
            return SampleAnswer(status, message, iterations)
        slopes = self._slopes()
        duals = {} if slopes is None else self._duals(slopes, data)
        return SampleAnswer(status, message, iterations, self._x.getAttr("X"), **duals)

    def _verdict(self, n: int) -> tuple[Status, str, int]:
        """Return status, message and iterations of the last optimisation."""
        model, code = self._model, self._model.Status
        if code == GRB.INTERRUPTED:
            raise KeyboardInterrupt
        iterations = int(model.IterCount) + int(model.BarIterCount)
        message = _WORDS.get(code, f"status {code}")
        if code in (GRB.INF_OR_UNBD, GRB.UNBOUNDED):
            status, settled = self._resolve_unbounded(n)
            return status, f"{message}; without objective: {settled}", iterations
        return _STATUS.get(message, Status.NUMERICAL), message, iterations

    def _resolve_unbounded(self, n: int) -> tuple[Status, str]:
        """Tell infeasible from unbounded: without an objective, only the former has no solution.

        Gurobi says INF_OR_UNBD after presolve, and UNBOUNDED of a ray whether or not the model
        has a feasible point.
        """
        self._pending |= {"P", "q"}
        self._send_objective(csc_matrix((n, n)), np.zeros(n))
        self._model.setParam("DualReductions", 0)
        try:
            self._model.reset(1)
            self._model.optimize()
        finally:
            self._model.setParam("DualReductions", self._parameters.get("DualReductions", 1))
        word = _WORDS.get(self._model.Status, f"status {self._model.Status}")
        if word in ("OPTIMAL", "SUBOPTIMAL"):
            return Status.UNBOUNDED, word
        return _STATUS.get(word, Status.NUMERICAL), word

    def _slopes(self) -> dict[str, Floats] | None:
        """Return Gurobi's Pi of A and G, RC, and QCPi under these names; None where it has none.

        It has none of nonconvex problems, nor where QCPDual is switched off.
        """
        try:
            found: dict[str, Floats] = {k: row.getAttr("Pi") for k, row in self._rows.items()}
            found["RC"] = self._x.getAttr("RC")
            if self._curved:
                found["QCPi"] = np.array(self._model.getAttr("QCPi", list(self._curved.values())))
        except gp.GurobiError as error:
            if error.errno in _NO_DUALS:
                return None
            raise
        return found

    def _duals(self, slopes: Mapping[str, Floats], data: SampleData) -> dict[str, Floats]:
        """Translate the slopes of one sample, or those of several in rows.

        Gurobi's Pi and QCPi are the objective's slopes in the right-hand sides, which is -ν and -μ; RC is
        positive at lower bounds.
        """
        linear, reduced = data.count("h"), slopes["RC"]
        lead = reduced.shape[:-1]
        inequality = np.zeros((*lead, linear + data.count("quadratic_r")))
        if "G" in slopes:
            inequality[..., :linear] = np.maximum(-slopes["G"], 0.0)
        if "QCPi" in slopes:
            rows = linear + np.array(list(self._curved))
            inequality[..., rows] = np.maximum(-slopes["QCPi"], 0.0)
        return {
            "equality": -slopes["A"] if "A" in slopes else np.zeros((*lead, 0)),
            "inequality": inequality,
            "lower": _where(self._has_lower, reduced),
            "upper": _where(self._has_upper, -reduced),
        }


def _where(bounded: NDArray[np.bool_], multipliers: Floats) -> Floats:
    """Return the positive parts of the multipliers of bounds that are there."""
    found: Floats = np.maximum(multipliers, 0.0)
    found[..., ~bounded] = 0.0
    return found


def _is_empty(data: SampleData) -> bool:
    n = data.n
    lower, upper = data.vector("lower", n, -np.inf), data.vector("upper", n, np.inf)
    limits = [data.vector(name, 0, np.inf) for name in ("h", "quadratic_r")]
    return bool(
        (lower == np.inf).any()
        or (upper == -np.inf).any()
        or any((limit == -np.inf).any() for limit in limits)
    )
