"""One native DAQP model: set up once, updated by what changed, with no memory of earlier samples."""

from __future__ import annotations

from typing import Any

import daqp
import numpy as np

from foldcore import Status
from foldcore.interfaces import ProgramStructure
from foldcore.solvers import (
    BatchAnswer,
    BatchData,
    SampleAnswer,
    SampleData,
    SampleModel,
    SampleStart,
)

from .buffers import Buffers, Floats
from .config import DAQPConfig

_FLAGS: dict[int, tuple[Status, str]] = {
    1: (Status.OPTIMAL, "exit flag 1: optimal"),
    4: (Status.INACCURATE, "exit flag 4: optimal, but inexact beyond primal_tol"),
    -1: (Status.INFEASIBLE, "exit flag -1: infeasible"),
    -2: (Status.NUMERICAL, "exit flag -2: cycling detected"),
    -3: (Status.UNBOUNDED, "exit flag -3: unbounded problem"),
    -4: (Status.ITERATION_LIMIT, "exit flag -4: iteration limit reached"),
    -5: (Status.NONCONVEX, "exit flag -5: nonconvex problem"),
    -6: (Status.INFEASIBLE, "exit flag -6: overdetermined: the equalities contradict each other"),
    -7: (Status.TIME_LIMIT, "exit flag -7: time limit reached"),
}
"""Meaning of DAQP's exit flags, see https://darnstrom.github.io/daqp/parameters."""
_UNKNOWN = (Status.NUMERICAL, "unknown exit flag")
_OPTIMAL = 1
_WITH_POINT = (_OPTIMAL, 4)
_VECTORS = frozenset({"q", "b", "h", "lower", "upper"})
_LINEAR = frozenset({"q"})
_EVERYTHING = _VECTORS | {"P", "A", "G"}


class DAQPModel(SampleModel):
    """DAQP for one structure.

    Where P is positive definite, a native model keeps its factors from sample to sample. Senses are
    sent with each sample, so that it starts from the equalities alone and not from the active set
    of the sample before. Elsewhere DAQP takes proximal steps from the last point: those samples are
    solved from scratch.
    """

    def __init__(self, config: DAQPConfig, structure: ProgramStructure) -> None:
        self._config = config
        self._buffers = Buffers(structure)
        self._native: Any = None
        self._tolerance = 0.0
        self._definite = self._buffers.curved
        matrices = {"P", "A", "G"}.intersection(structure.template.varying)
        policies = {"auto": 0 if matrices else 1, "on": 1, "off": -1}
        self._eq_reduction = policies[config.eq_reduction]

    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        self._buffers.load(data, changed)
        if "P" in changed:
            self._definite = True
        try:
            if self._definite:
                answer = self._solve_definite(changed, start)
                if answer.status is not Status.NONCONVEX:
                    return answer
                self._definite = False  # as long as P stays
            return self._solve_proximal(start)
        except (ValueError, RuntimeError) as error:
            self._native = None
            return SampleAnswer(Status.NUMERICAL, f"DAQP refused the data: {error!r}")

    def solve_rows(self, batch: BatchData, changed: frozenset[str]) -> BatchAnswer | None:
        """Solve samples that differ in q alone, with nothing between DAQP's calls.

        A batch with a sample that DAQP refuses or calls nonconvex is left to :meth:`solve`, which
        meets the same trouble and names the sample.
        """
        buffers = self._buffers
        linear = batch.rows("q") if batch.batched == {"q"} else None
        if not isinstance(linear, np.ndarray) or not buffers.sense.size:
            return None
        self._definite |= "P" in changed
        if not self._definite:
            return None
        buffers.load(batch.sample(0), changed)
        found = self._loop(linear, changed)
        if found is None:
            self._native = None
        return found

    def _loop(self, linear: Floats, changed: frozenset[str]) -> BatchAnswer | None:
        buffers, verdicts, x, lam = self._buffers, [], [], []
        try:
            if self._update(changed, None) < 0:
                return None
            update, solve, q = self._native.update, self._native.solve, buffers.f
            arguments = buffers.arguments(_LINEAR, buffers.sense)
            for i, one in enumerate(linear):
                q[...] = one
                if i and update(**arguments) < 0:
                    return None
                point, _, flag, info = solve()
                verdicts.append((*_FLAGS.get(flag, _UNKNOWN), info["iterations"]))
                if flag == _OPTIMAL:
                    x.append(point)
                    lam.append(info["lam"])
        except (ValueError, RuntimeError):
            return None
        if any(status is Status.NONCONVEX for status, _, _ in verdicts):
            return None
        points = np.array(x).reshape(-1, buffers.n)
        duals = buffers.duals(np.array(lam).reshape(-1, buffers.sense.size))
        return BatchAnswer.of_solved(verdicts, points, **duals)

    def close(self) -> None:
        self._native = None

    def _solve_definite(self, changed: frozenset[str], start: SampleStart | None) -> SampleAnswer:
        flag = self._update(changed, start)
        if flag < 0:
            # The model may be half updated; the next sample gets a new one.
            self._native = None
            return SampleAnswer(*_FLAGS.get(flag, _UNKNOWN))
        x, _, flag, info = self._native.solve()
        return self._answer(x, flag, info)

    def _update(self, changed: frozenset[str], start: SampleStart | None) -> int:
        """Bring the native model up to date; return DAQP's flag, negative where it failed."""
        buffers = self._buffers
        tolerance = self._config.atol + self._config.rtol * buffers.scale
        flag = 0
        if self._native is None:
            self._native = daqp.Model()
            self._native.settings = {**self._settings(tolerance), "eps_prox": 0.0}
            flag, _ = self._native.setup(
                buffers.H, buffers.f, buffers.A, buffers.bupper, buffers.blower, buffers.sense
            )
            changed = _VECTORS
        elif tolerance != self._tolerance:
            self._native.settings = {"primal_tol": tolerance}
        self._tolerance = tolerance
        # DAQP scales its factors after their first use, so that rounding would tell what was there
        # before: matrices go in together, and vectors once more after them.
        if flag >= 0 and not changed <= _VECTORS:
            flag = self._native.update(**buffers.arguments(_EVERYTHING, buffers.sense))
            changed = _VECTORS
        if flag >= 0:
            flag = self._native.update(**buffers.arguments(changed, buffers.senses(start)))
        return int(flag)

    def _solve_proximal(self, start: SampleStart | None) -> SampleAnswer:
        buffers, config = self._buffers, self._config
        x, _, flag, info = daqp.solve(
            buffers.H if buffers.H.any() else None,
            buffers.f, buffers.A, buffers.bupper, buffers.blower, buffers.sense,
            primal_start=None if start is None else start.x,
            dual_start=buffers.multipliers(start),
            eta_prox=config.atol + config.rtol,
            **self._settings(config.atol + config.rtol * buffers.scale),
        )  # fmt: skip
        return self._answer(x, flag, info)

    def _answer(self, x: Any, flag: int, info: dict[str, Any]) -> SampleAnswer:
        status, message = _FLAGS.get(flag, _UNKNOWN)
        if flag not in _WITH_POINT:
            return SampleAnswer(status, message, info["iterations"])
        duals = self._buffers.duals(info["lam"])
        return SampleAnswer(status, message, info["iterations"], x, **duals)

    def _settings(self, tolerance: float) -> dict[str, Any]:
        config = self._config
        return {
            "primal_tol": tolerance,
            "iter_limit": config.max_iter,
            "time_limit": config.time_limit or 0.0,
            "eq_reduction": self._eq_reduction,
        }
