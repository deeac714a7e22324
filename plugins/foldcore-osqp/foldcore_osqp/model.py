"""One native OSQP model: data go in sample by sample, and no sample leaves anything behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import osqp

from foldcore import Status

from . import interrupts
from .config import OSQPConfig
from .layout import Layout, Sample
from .pattern import Floats

_STATUS: dict[int, Status] = {
    osqp.SolverStatus.OSQP_SOLVED: Status.OPTIMAL,
    osqp.SolverStatus.OSQP_SOLVED_INACCURATE: Status.INACCURATE,
    osqp.SolverStatus.OSQP_PRIMAL_INFEASIBLE: Status.INFEASIBLE,
    osqp.SolverStatus.OSQP_PRIMAL_INFEASIBLE_INACCURATE: Status.INFEASIBLE,
    osqp.SolverStatus.OSQP_DUAL_INFEASIBLE: Status.UNBOUNDED,
    osqp.SolverStatus.OSQP_DUAL_INFEASIBLE_INACCURATE: Status.UNBOUNDED,
    osqp.SolverStatus.OSQP_MAX_ITER_REACHED: Status.ITERATION_LIMIT,
    osqp.SolverStatus.OSQP_TIME_LIMIT_REACHED: Status.TIME_LIMIT,
    osqp.SolverStatus.OSQP_NON_CVX: Status.NONCONVEX,
}
_WITHOUT_POINT = (Status.INFEASIBLE, Status.UNBOUNDED, Status.NONCONVEX, Status.NUMERICAL)
_LOOSEST = 1e-3
_BRIEF = 0.2
"""Time of one native solve (seconds) up to which a Ctrl-C can wait for its end."""


@dataclass(frozen=True)
class Answer:
    """What became of one sample; ``x`` and ``y`` are None where there is no point to show."""

    status: Status
    message: str
    iterations: int = 0
    seconds: float = 0.0
    x: Floats | None = None
    y: Floats | None = None
    primal_residual: float = 0.0
    dual_residual: float = 0.0


class NativeModel:
    """OSQP for one layout, set up with the first sample and updated for the others.

    OSQP keeps three things from one solve to the next: its iterates, the adapted rho, and the
    scaling, which depends on the q that was there when the matrices came. Every sample therefore
    starts from given iterates and the configured rho, and matrices are set while q is 0.
    """

    def __init__(self, config: OSQPConfig, layout: Layout) -> None:
        self._config = config
        self._layout = layout
        self._native: Any = None
        self._rho_moved = False
        self._brief = False
        self._limits: tuple[Floats, Floats] | None = None
        self._sent: dict[str, Any] = {}

    def close(self) -> None:
        self._native = None

    def solve(self, sample: Sample, *, resend: bool) -> Answer:
        """Solve one sample.

        Args:
            resend: Whether the matrices may differ from those of the previous sample.

        Raises:
            KeyboardInterrupt: In the main thread, where OSQP was interrupted.
        """
        try:
            self._load(sample, resend=resend)
            self._native.warm_start(x=sample.x, y=sample.y)
            return self._tighten(sample)
        except (osqp.OSQPException, ValueError, RuntimeError) as error:
            # The model may be half updated; the next sample gets a new one.
            self._native = None
            if error == osqp.SolverError.OSQP_NONCVX_ERROR:
                return Answer(Status.NONCONVEX, "OSQP's set-up found the problem not convex")
            return Answer(Status.NUMERICAL, f"OSQP refused the data: {error!r}")

    def _load(self, sample: Sample, *, resend: bool) -> None:
        q, l_rows, u_rows = sample.q, sample.l, sample.u
        if self._native is None:
            self._native = osqp.OSQP(algebra="builtin")
            P, C = self._layout.P.matrix(sample.P), self._layout.C.matrix(sample.C)
            self._native.setup(P, np.zeros_like(q), C, l_rows, u_rows, **_settings(self._config))
            self._limits, self._sent = None, {}
        else:
            if resend:
                self._native.update(q=np.zeros_like(q))
                self._native.update(Px=sample.P, Ax=sample.C)
                self._limits = None  # they are scaled anew with the matrices
            if self._rho_moved:
                self._native.update_settings(rho=self._config.rho)
        self._rho_moved = False
        if self._limits is not None and self._limits[0] is l_rows and self._limits[1] is u_rows:
            self._native.update(q=q)
        else:
            self._native.update(q=q, l=l_rows, u=u_rows)
            self._limits = (l_rows, u_rows)

    def _tighten(self, sample: Sample) -> Answer:
        """Tighten the tolerance by decades until a polished point passes the final one.

        Polishing often meets the final tolerance long before ADMM itself does, which on linear
        programs may never get there.
        """
        target = (self._config.rtol, self._config.atol)
        answer = Answer(Status.NUMERICAL, "")
        for stage in self._stages():
            answer = self._advance(stage, answer)
            if answer.status is Status.INACCURATE and stage != target:
                return replace(answer, status=Status.ITERATION_LIMIT)
            if answer.status is not Status.OPTIMAL or self._within_limits(sample, answer):
                return answer
        if not self._config.polishing:
            return answer
        # Polishing can replace a converged point by a worse one (osqp issue 790).
        self._native.update_settings(polishing=False)
        answer = self._advance(target, answer)
        self._native.update_settings(polishing=True)
        return answer

    def _stages(self) -> Iterator[tuple[float, float]]:
        rtol, atol = self._config.rtol, self._config.atol
        loose = _LOOSEST
        while self._config.polishing and loose > 1.5 * max(rtol, atol):
            yield max(loose, rtol), max(loose, atol)
            loose /= 10
        yield rtol, atol

    def _advance(self, tolerance: tuple[float, float], before: Answer) -> Answer:
        """Go on from the model's iterates; counts of iterations and seconds add up."""
        limits: dict[str, Any] = {"max_iter": self._config.max_iter - before.iterations}
        if limits["max_iter"] <= 0:
            message = "maximum iterations reached"
            return replace(before, status=Status.ITERATION_LIMIT, message=message)
        if self._config.time_limit is not None:
            limits["time_limit"] = self._config.time_limit - before.seconds
            if limits["time_limit"] <= 0:
                message = "run time limit reached"
                return replace(before, status=Status.TIME_LIMIT, message=message)
        settings = {"eps_rel": tolerance[0], "eps_abs": tolerance[1], **limits}
        if settings != self._sent:
            self._native.update_settings(**settings)
            self._sent = settings
        # OSQP hears of Ctrl-C in the middle of a solve, which pays where one takes long.
        with interrupts.held_back() if self._brief else nullcontext():
            result = self._native.solve(raise_error=False)
        info = result.info
        if info.status_val == osqp.SolverStatus.OSQP_SIGINT:
            interrupts.hand_on()
        self._brief = info.solve_time < _BRIEF
        self._rho_moved |= info.rho_updates > 0
        answer = Answer(
            status=_STATUS.get(int(info.status_val), Status.NUMERICAL),
            message=info.status,
            iterations=before.iterations + info.iter,
            seconds=before.seconds + info.solve_time,
        )
        if answer.status in _WITHOUT_POINT:
            return answer
        # OSQP hands out views of memory that its next solve overwrites.
        x, y = np.array(result.x), np.array(result.y)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            message = f"{info.status}, but with NaN or inf"
            return replace(answer, status=Status.NUMERICAL, message=message)
        return replace(answer, x=x, y=y, primal_residual=info.prim_res, dual_residual=info.dual_res)

    def _within_limits(self, sample: Sample, answer: Answer) -> bool:
        """Return whether a point passes OSQP's own stopping test at the final tolerance."""
        if answer.x is None or answer.y is None:
            return False
        atol, rtol, x, y = self._config.atol, self._config.rtol, answer.x, answer.y
        q = sample.q
        if answer.primal_residual <= atol and answer.dual_residual <= atol + rtol * _largest(q):
            return True  # spares the products below
        upper, C = self._layout.P.matrix(sample.P), self._layout.C.matrix(sample.C)
        curved = upper @ x + upper.T @ x - upper.diagonal() * x
        return bool(
            answer.primal_residual <= atol + rtol * _largest(C @ x)
            and answer.dual_residual <= atol + rtol * _largest(curved, C.T @ y, q)
        )


def _largest(*vectors: Floats) -> float:
    return max(float(np.abs(v).max(initial=0.0)) for v in vectors)


def _settings(config: OSQPConfig) -> dict[str, Any]:
    return {
        "rho": config.rho,
        "adaptive_rho": int(config.adaptive_rho),
        "polishing": config.polishing,
        "scaling": config.scaling,
        "verbose": config.verbose,
        "warm_starting": True,
    }
