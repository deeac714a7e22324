"""One native DAQP model: set up once, updated by what changed, with no memory of earlier samples."""

from __future__ import annotations

from typing import Any

import daqp

from foldcore import ProgramStructure, SampleAnswer, SampleData, SampleModel, SampleStart, Status

from .buffers import Buffers
from .config import DAQPConfig

_NONCONVEX = -5
_FLAGS: dict[int, tuple[Status, str]] = {
    1: (Status.OPTIMAL, "optimal"),
    4: (Status.INACCURATE, "optimal, but a constraint is violated by more than primal_tol"),
    -1: (Status.INFEASIBLE, "infeasible"),
    -2: (Status.NUMERICAL, "cycling detected"),
    -3: (Status.UNBOUNDED, "unbounded problem"),
    -4: (Status.ITERATION_LIMIT, "iteration limit reached"),
    _NONCONVEX: (Status.NONCONVEX, "nonconvex problem"),
    -6: (Status.INFEASIBLE, "initial working set overdetermined: the equalities contradict"),
    -7: (Status.TIME_LIMIT, "time limit reached"),
}
"""Meaning of DAQP's exit flags, see https://darnstrom.github.io/daqp/parameters."""
_WITH_POINT = (1, 4)


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
        self._pending: set[str] = set()
        self._tolerance = 0.0
        self._definite = self._buffers.curved

    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        self._pending |= self._buffers.load(data, changed)
        if "P" in changed:
            self._definite = True
        try:
            if self._definite:
                answer = self._solve_definite(start)
                if answer.status is not Status.NONCONVEX:
                    return answer
                self._definite = False  # as long as P stays
            return self._solve_proximal(start)
        except (ValueError, RuntimeError) as error:
            self._native = None
            return SampleAnswer(Status.NUMERICAL, f"DAQP refused the data: {error!r}")

    def close(self) -> None:
        self._native = None

    def _solve_definite(self, start: SampleStart | None) -> SampleAnswer:
        flag = self._update(start)
        if flag < 0:
            # The model may be half updated; the next sample gets a new one.
            self._native = None
            status, message = _meaning(flag)
            return SampleAnswer(status, message)
        x, _, flag, info = self._native.solve()
        return self._answer(x, flag, info)

    def _update(self, start: SampleStart | None) -> int:
        """Bring the native model up to date; return DAQP's flag, negative where it failed."""
        buffers = self._buffers
        sense = buffers.senses(start)
        tolerance = self._config.atol + self._config.rtol * buffers.scale
        if self._native is None:
            native = daqp.Model()
            native.settings = {**self._settings(tolerance), "eps_prox": 0.0}
            flag, _ = native.setup(
                buffers.H, buffers.f, buffers.A, buffers.bupper, buffers.blower, sense
            )
            self._native = native
        else:
            if tolerance != self._tolerance:
                self._native.settings = {"primal_tol": tolerance}
            arguments = {name: getattr(buffers, name) for name in self._pending}
            flag = self._native.update(sense=sense, **arguments)
        self._tolerance = tolerance
        self._pending.clear()
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
        status, message = _meaning(flag)
        if flag not in _WITH_POINT:
            return SampleAnswer(status, message, info["iterations"])
        return self._buffers.answer(status, message, info["iterations"], x, info["lam"])

    def _settings(self, tolerance: float) -> dict[str, Any]:
        config = self._config
        return {
            "primal_tol": tolerance,
            "iter_limit": config.max_iter,
            "time_limit": config.time_limit or 0.0,
            "eq_reduction": {"auto": 0, "on": 1, "off": -1}[config.eq_reduction],
        }


def _meaning(flag: int) -> tuple[Status, str]:
    status, words = _FLAGS.get(flag, (Status.NUMERICAL, "unsupported"))
    return status, f"exit flag {flag}: {words}"
