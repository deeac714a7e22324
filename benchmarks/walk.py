"""What one small call of a layer costs: our own Python calls, tensor operations, microseconds.

Part of ``python benchmarks/overhead.py walk``. Every row runs forward and backward in turns with the
others, in one process; three bare torch operations and a bare autograd.Function stand beside the layers.
An empty rule over an empty solver is what the layer itself costs, whatever is plugged into it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import foldcore as fc


class _Given(fc.UpdateRule):
    """U(x) = -q: its fixed point is the minimiser of ½‖x‖² + qᵀx, and nothing is computed."""

    api_version = 2
    config_class = fc.PluginConfig

    def __init__(self, config: fc.PluginConfig) -> None:
        self.config = config

    def unsupported_reason(self, structure: fc.ProgramStructure) -> str | None:
        return None

    def bind(self, program: fc.SmoothProgram, inner: Mapping[str, fc.InnerFold]) -> fc.BoundRule:
        return _BoundGiven(program)


class _BoundGiven(fc.BoundRule):
    def __init__(self, program: fc.SmoothProgram) -> None:
        self._program = program

    def initial(self, primal: Tensor | None = None) -> Tensor:
        return -self._program.params["q"] if primal is None else primal

    def lift(self, solution: fc.Solution) -> Tensor:
        return solution.primal

    def step(self, state: Tensor) -> Tensor:
        return -self._program.params["q"]

    def primal(self, state: Tensor) -> Tensor:
        return state

    def jacobian(self, state: Tensor) -> fc.FixedPointOperator:
        return fc.ZeroOperator(state)


@fc.solver
def _given(program: fc.SmoothProgram) -> Tensor:
    return -program.params["q"]


class _Bare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor) -> Tensor:
        return -q

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return -cotangent


def _three_operations(q: Tensor) -> Tensor:
    return (q * 2 - 1).clamp(min=0)


@dataclass
class _Row:
    """One way from q to x, with what its passes took."""

    title: str
    call: Callable[[Tensor], Tensor]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"forward": [], "backward": []})

    def run(self, q: Tensor, cotangent: Tensor) -> None:
        started = time.perf_counter()
        x = self.call(q)
        between = time.perf_counter()
        x.backward(cotangent)
        self.seconds["forward"].append(between - started)
        self.seconds["backward"].append(time.perf_counter() - between)

    def line(self, q: Tensor, cotangent: Tensor) -> str:
        """Return a row of the table; medians of what ran, counts of one more run."""
        cells = []
        for name, count in zip(("forward", "backward"), self._counts(q, cotangent), strict=True):
            spent = 1e6 * float(np.median(self.seconds[name]))
            cells.append(f"{count[0]} | {count[1]} | {count[2]} | {spent:.0f}")
        return f"| {self.title} | {' | '.join(cells)} |"

    def _counts(self, q: Tensor, cotangent: Tensor) -> list[tuple[int, int, int]]:
        with _OwnCalls() as forward:
            x = self.call(q)
        with _OwnCalls() as backward:
            x.backward(cotangent)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            x = self.call(q)
        operations = [_operations(seen)]
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            x.backward(cotangent)
        operations.append(_operations(seen))
        passes = zip((forward, backward), operations, strict=True)
        return [(one.calls, one.changes, count) for one, count in passes]


class _OwnCalls:
    """Counts Python calls of functions of foldcore and its plugins, and changes from file to file."""

    def __enter__(self) -> _OwnCalls:
        self.calls, self.changes, self._last = 0, 0, ""
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        ours = module.partition(".")[0].startswith("foldcore")
        # What dataclasses generate lies in no file.
        if event == "call" and ours and not frame.f_code.co_filename.startswith("<"):
            self.calls += 1
            self.changes += module != self._last
            self._last = module


def _operations(seen: Any) -> int:
    return sum(one.count for one in seen.key_averages() if one.key.startswith("aten::"))


def report(repeat: int) -> None:
    """Print one table per size."""
    for n, batch in ((10, 1), (4, 3)):
        print(f"\nQP of n = {n} with constant P = I, batch {batch}, float64")
        head = "calls | changes of file | tensor operations | µs"
        print(f"| way | forward: {head} | backward: {head} |")
        print("|---|" + "--:|" * 8)
        q = torch.linspace(-1, 1, n * batch, dtype=torch.float64).reshape(batch, n)
        q.requires_grad_()
        cotangent = torch.ones(batch, n, dtype=torch.float64)
        rows = _rows(n)
        for i in range(repeat + 10):
            for row in rows:
                row.run(q, cotangent)
            if i == 9:  # sessions are open and caches filled
                for row in rows:
                    for spent in row.seconds.values():
                        spent.clear()
        for row in rows:
            print(row.line(q, cotangent))


def _rows(n: int) -> list[_Row]:
    identity = torch.eye(n, dtype=torch.float64)
    bare = fc.QuadraticProgram(P=identity, q=fc.Param(n))
    bounded = fc.QuadraticProgram(
        P=identity,
        q=fc.Param(n),
        A=torch.ones(1, n, dtype=torch.float64),
        b=torch.ones(1, dtype=torch.float64),
        lower=0.0,
    )
    empty = fc.build({"problem": bare, "solver": _given, "rule": _Given(fc.PluginConfig())})
    daqp = fc.build({"problem": bounded, "solver": "daqp", "rule": "newton"})
    default = fc.build({"problem": bounded})
    return [
        _Row("three bare torch operations", _three_operations),
        _Row("a bare autograd.Function", _Bare.apply),  # type: ignore[no-untyped-call]
        _Row("empty rule over an empty solver", lambda q: empty(q=q)),
        _Row("newton over daqp (Ax = b, x >= 0)", lambda q: daqp(q=q)),
        _Row("default (Ax = b, x >= 0)", lambda q: default(q=q)),
    ]
