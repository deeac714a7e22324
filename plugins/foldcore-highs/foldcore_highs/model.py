"""One native HiGHS model: built once, updated by what changed, with no memory of earlier samples."""

from __future__ import annotations

import highspy
import numpy as np
from highspy import HighsModelStatus
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, tril, vstack

from foldcore import Status
from foldcore.interfaces import ProgramStructure
from foldcore.solvers import SampleAnswer, SampleData, SampleModel, SampleStart

from .checks import is_convex, is_definite, refused
from .config import HighsConfig

Floats = NDArray[np.float64]

_STATUS: dict[HighsModelStatus, Status] = {
    HighsModelStatus.kOptimal: Status.OPTIMAL,
    HighsModelStatus.kInfeasible: Status.INFEASIBLE,
    HighsModelStatus.kUnbounded: Status.UNBOUNDED,
    HighsModelStatus.kIterationLimit: Status.ITERATION_LIMIT,
    HighsModelStatus.kTimeLimit: Status.TIME_LIMIT,
    HighsModelStatus.kSolutionLimit: Status.ITERATION_LIMIT,  # of branch-and-bound nodes
}

PROXIMAL_WEIGHTS = (1e-7, 1e-9, 1e-11, 1e-12, 1e-12, 1e-12)
"""Weights δ of the proximal steps, relative to the largest entry of P; the first is HiGHS's own."""


BOUND_SCALES = (5, 8, 11)
"""Powers of two to scale bounds by when the QP method drifts out of the feasible set and gives up."""


class HighsError(Exception):
    """HiGHS refused a call; stays within this plugin."""


class _Silent(highspy.Highs):
    """HiGHS without its banner, which its constructor prints as soon as callbacks are enabled."""

    def enableCallbacks(self) -> None:  # noqa: N802 - HiGHS's name
        self.silent()
        super().enableCallbacks()  # type: ignore[no-untyped-call]


class HighsModel(SampleModel):
    """minimise ½ xᵀPx + qᵀx  s.t.  rows [A; G] and column bounds.

    HiGHS adds 1e-7 to the diagonal of every P and never takes it away (HiGHS issue 2383). That is
    switched off. Without it HiGHS gives up on some semidefinite P; those are solved by proximal
    steps, minimise f(x) + ½δ‖x - x_k‖², whose fixed point is a solution of the problem as given.
    """

    def __init__(
        self, config: HighsConfig, structure: ProgramStructure, *, single_thread: bool
    ) -> None:
        self._config = config
        self._known_convex = structure.convex is True
        self._integer = structure.integer
        self._native = _Silent()  # type: ignore[no-untyped-call]
        self._pending: frozenset[str] = frozenset()
        self._built = False
        self._hessian = csc_matrix((structure.n, structure.n))
        self._iterations = 0
        threads = 1 if single_thread else config.threads
        # Versions of HiGHS have dropped integrality where an algorithm for LPs was named.
        method = "choose" if structure.integer else config.method
        for name, value in _options(config, method, threads).items():
            _check(self._native.setOptionValue(name, value), f"option {name}")

    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        self._pending |= changed
        self._iterations = 0
        answer = refused(data)
        if answer is not None:
            return answer
        try:
            if "P" in self._pending and not self._known_convex:
                hessian = data.sparse("P", data.n)
                if not is_convex(hessian):
                    return SampleAnswer(Status.NONCONVEX, "not solved: P is indefinite")
            self._send(data)
            return self._answer(data, self._run_to_status(data, start))
        except (HighsError, ValueError, TypeError, RuntimeError) as error:
            self._built = False
            return SampleAnswer(Status.NUMERICAL, f"HiGHS: {error}", self._iterations)

    def close(self) -> None:
        self._native.clear()

    def _send(self, data: SampleData) -> None:
        native, pending, n = self._native, self._pending, data.n
        columns = np.arange(n, dtype=np.int32)
        if not self._built or pending & {"A", "G"}:
            _check(native.passModel(_lp(data, self._integer)), "the model")
            pending = frozenset({"P"})
        if "q" in pending:
            cost = data.vector("q", n, 0.0)
            _check(native.changeColsCost(n, columns, cost), "q")
        if pending & {"lower", "upper"}:
            lower, upper = data.vector("lower", n, -np.inf), data.vector("upper", n, np.inf)
            _check(native.changeColsBounds(n, columns, lower, upper), "lower and upper")
        if pending & {"b", "h"}:
            low, high = _row_limits(data)
            rows = np.arange(low.size, dtype=np.int32)
            # Highspy's stubs lack this method of HiGHS's interface.
            given = native.changeRowsBounds(low.size, rows, low, high)  # type: ignore[attr-defined]
            _check(given, "b and h")
        if "P" in pending:
            self._hessian = tril(data.sparse("P", n), format="csc")
            self._hessian.eliminate_zeros()
            self._send_hessian(self._hessian)
        self._built, self._pending = True, frozenset()

    def _send_hessian(self, lower: csc_matrix) -> None:
        kind = int(highspy.HessianFormat.kTriangular)
        start, index = lower.indptr.astype(np.int32), lower.indices.astype(np.int32)
        given = self._native.passHessian(
            lower.shape[0], lower.nnz, kind, start, index, lower.data.astype(float)
        )
        _check(given, "P")

    def _run_to_status(self, data: SampleData, start: SampleStart | None) -> HighsModelStatus:
        native = self._native
        if self._config.time_limit is not None:
            # HiGHS measures its limit on a clock that runs on from solve to solve.
            limit = native.getRunTime() + self._config.time_limit
            _check(native.setOptionValue("time_limit", limit), "option time_limit")
        status = self._run(data, start)
        if status == HighsModelStatus.kSolveError and self._hessian.nnz:
            definite = is_definite(data.sparse("P", data.n))
            status = self._run_scaled(data) if definite else self._run_proximal(data)
        if status in (HighsModelStatus.kUnbounded, HighsModelStatus.kUnboundedOrInfeasible):
            return self._resolve_unbounded(data)
        return status

    def _run(self, data: SampleData, start: SampleStart | None = None) -> HighsModelStatus:
        native = self._native
        _check(native.clearSolver(), "clearSolver")
        if start is not None and not self._hessian.nnz:
            _check(native.setSolution(_highs_solution(data, start)), "the warm start")
        native.run()  # its return value says less than the model status
        if native.getModelStatus() == HighsModelStatus.kNotset:
            # The process's scheduler was started with another number of threads.
            highspy.Highs.resetGlobalScheduler(True)
            native.run()
        info = native.getInfo()
        for count in (
            info.simplex_iteration_count,
            info.ipm_iteration_count,
            info.crossover_iteration_count,
            info.pdlp_iteration_count,
            info.qp_iteration_count,
        ):
            self._iterations += max(0, int(count))
        return native.getModelStatus()

    def _run_scaled(self, data: SampleData) -> HighsModelStatus:
        """Solve a strictly convex QP that HiGHS gave up.

        Its method takes steps of rounding size for feasible; on one QP in a hundred they add up,
        and it refuses its own optimum. In larger units, an exact substitution, they do so less.
        """
        status = HighsModelStatus.kSolveError
        try:
            for scale in BOUND_SCALES:
                _check(self._native.setOptionValue("user_bound_scale", scale), "the bounds' scale")
                status = self._run(data)
                if status != HighsModelStatus.kSolveError:
                    break
        finally:
            _check(self._native.setOptionValue("user_bound_scale", 0), "the bounds' scale")
        return status

    def _run_proximal(self, data: SampleData) -> HighsModelStatus:
        """Solve with a semidefinite P. Source: Rockafellar (1976), proximal point algorithm."""
        native, n = self._native, data.n
        columns, cost = np.arange(n, dtype=np.int32), data.vector("q", n, 0.0)
        size = float(abs(self._hessian).max())
        tolerance = 1e-13 * (1 + float(np.abs(cost).max()))
        centre, status = np.zeros(n), HighsModelStatus.kNotset
        self._pending |= {"q"}
        try:
            for weight in (size * relative for relative in PROXIMAL_WEIGHTS):
                regularise = native.setOptionValue("qp_regularization_value", weight)
                _check(regularise, "the proximal weight")
                _check(native.changeColsCost(n, columns, cost - weight * centre), "q")
                status = self._run(data)
                if status != HighsModelStatus.kOptimal:
                    return status
                x = np.asarray(native.getSolution().col_value)
                if weight * float(np.abs(x - centre).max()) <= tolerance:
                    return status
                centre = x
        finally:
            _check(native.setOptionValue("qp_regularization_value", 0.0), "the proximal weight")
        raise HighsError("P is singular, and the proximal steps did not converge")

    def _resolve_unbounded(self, data: SampleData) -> HighsModelStatus:
        """Tell infeasible from unbounded: without an objective, only the former has no solution."""
        n = data.n
        bounded = np.isfinite(data.vector("lower", n, -np.inf)).all()
        bounded &= np.isfinite(data.vector("upper", n, np.inf)).all()
        if bounded and not self._integer:
            raise HighsError("called unbounded although every variable has bounds")
        self._pending |= {"q", "P"}
        columns = np.arange(n, dtype=np.int32)
        _check(self._native.changeColsCost(n, columns, np.zeros(n)), "q")
        self._hessian = csc_matrix((n, n))
        self._send_hessian(self._hessian)
        status = self._run(data)
        return HighsModelStatus.kUnbounded if status == HighsModelStatus.kOptimal else status

    def _answer(self, data: SampleData, native_status: HighsModelStatus) -> SampleAnswer:
        status = _STATUS.get(native_status, Status.NUMERICAL)
        message = self._native.modelStatusToString(native_status)
        solution = self._native.getSolution()
        if status in (Status.INFEASIBLE, Status.UNBOUNDED) or not solution.value_valid:
            if status.ok:
                status, message = Status.NUMERICAL, f"{message}, but without a solution"
            return SampleAnswer(status, message, self._iterations)
        x = np.asarray(solution.col_value, dtype=float)
        if not np.isfinite(x).all():
            return SampleAnswer(
                Status.NUMERICAL, f"{message}, with NaN or inf in x", self._iterations
            )
        if not solution.dual_valid:
            return SampleAnswer(status, message, self._iterations, x)
        # HiGHS: gradient = Mᵀy + z, with y and z positive at lower limits, negative at upper ones.
        y, z = np.asarray(solution.row_dual), np.asarray(solution.col_dual)
        n, p = data.n, data.count("b")
        lower, upper = data.vector("lower", n, -np.inf), data.vector("upper", n, np.inf)
        limit = data.vector("h", data.count("h"), np.inf)
        return SampleAnswer(
            status=status,
            message=message,
            iterations=self._iterations,
            x=x,
            equality=-y[:p],
            inequality=np.where(np.isfinite(limit), np.maximum(-y[p:], 0.0), 0.0),
            lower=np.where(np.isfinite(lower), np.maximum(z, 0.0), 0.0),
            upper=np.where(np.isfinite(upper), np.maximum(-z, 0.0), 0.0),
        )


def _options(config: HighsConfig, method: str, threads: int) -> dict[str, bool | int | float | str]:
    feasibility, limit = max(config.atol, 1e-10), config.max_iter
    return {
        "output_flag": False,
        "solver": method,
        "threads": threads,
        "parallel": "on" if threads > 1 else "off",
        "simplex_strategy": 3 if threads > 1 else 1,  # the dual method, in parallel or serial
        "primal_feasibility_tolerance": feasibility,
        "dual_feasibility_tolerance": feasibility,
        "primal_residual_tolerance": feasibility,
        "dual_residual_tolerance": feasibility,
        "ipm_optimality_tolerance": max(config.rtol, 1e-12),
        "pdlp_optimality_tolerance": max(config.rtol, 1e-10),
        "simplex_iteration_limit": limit,
        "ipm_iteration_limit": limit,
        "pdlp_iteration_limit": limit,
        "qp_iteration_limit": limit,
        "mip_max_nodes": limit,
        "mip_rel_gap": config.mip_rel_gap,
        "mip_abs_gap": 0.0,  # its unit is the objective's: only the user knows what is small
        "mip_feasibility_tolerance": feasibility,
        "qp_regularization_value": 0.0,
        "small_matrix_value": 1e-12,  # the smallest HiGHS allows: entries below it are dropped
    }


def _check(status: highspy.HighsStatus, what: str) -> None:
    if status == highspy.HighsStatus.kError:
        raise HighsError(f"{what} was refused")


def _row_limits(data: SampleData) -> tuple[Floats, Floats]:
    equal = data.vector("b", 0, 0.0)
    limit = data.vector("h", 0, np.inf)
    low = np.concatenate([equal, np.full(limit.size, -np.inf)])
    return low, np.concatenate([equal, limit])


def _lp(data: SampleData, integer: tuple[int, ...]) -> highspy.HighsLp:
    n, lp = data.n, highspy.HighsLp()
    blocks = [data.sparse("A", data.count("b")), data.sparse("G", data.count("h"))]
    matrix = vstack(blocks, format="csc")
    low, high = _row_limits(data)
    lp.num_col_, lp.num_row_ = n, low.size
    lp.col_cost_ = data.vector("q", n, 0.0)
    lp.col_lower_, lp.col_upper_ = data.vector("lower", n, -np.inf), data.vector("upper", n, np.inf)
    lp.row_lower_, lp.row_upper_ = low, high
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = matrix.indptr
    lp.a_matrix_.index_ = matrix.indices
    lp.a_matrix_.value_ = matrix.data
    if integer:
        kinds = [highspy.HighsVarType.kContinuous] * n
        for column in integer:
            kinds[column] = highspy.HighsVarType.kInteger
        lp.integrality_ = kinds
    return lp


def _highs_solution(data: SampleData, start: SampleStart) -> highspy.HighsSolution:
    solution = highspy.HighsSolution()
    solution.col_value = start.x.tolist()
    if start.equality is not None and start.inequality is not None:
        solution.row_dual = np.concatenate([-start.equality, -start.inequality]).tolist()
        if start.lower is not None and start.upper is not None:
            solution.col_dual = (start.lower - start.upper).tolist()
    return solution
