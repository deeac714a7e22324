"""One call walks through the rooms once: one bind, few calls of our own, warnings at the caller's line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.hooks import hookimpl, listening

pytest.importorskip("foldcore_daqp", reason="a solver for the trivial problem")
pytest.importorskip("foldcore_newton", reason="a rule for it")
pytest.importorskip("foldcore_gmres", reason="an adjoint solver for it")

ROOT = Path(fc.__file__).resolve().parent.parent
N = 10


def trivial(**config: object) -> fc.Fold:
    problem = fc.QuadraticProgram(
        P=torch.eye(N, dtype=torch.float64),
        q=fc.Param(N),
        A=torch.ones(1, N, dtype=torch.float64),
        b=torch.ones(1, dtype=torch.float64),
        lower=torch.zeros(N, dtype=torch.float64),
    )
    return fc.build(
        {"problem": problem, "solver": "daqp", "rule": "newton", "adjoint": "gmres", **config}
    )


def draw(batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, N, generator=generator, dtype=torch.float64)
    return q.requires_grad_()


@contextmanager
def counted_calls() -> Iterator[list[str]]:
    """Collect the Python calls of functions that lie in this repository's packages."""
    calls: list[str] = []
    here = str(Path(__file__).resolve())

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        ours = "foldcore" in Path(code.co_filename).parts or "foldcore_" in code.co_filename
        # An editable install's finder is asked for modules that torch imports late.
        ours = ours and "__editable__" not in code.co_filename
        if event == "call" and ours and code.co_filename != here:
            calls.append(f"{Path(code.co_filename).name}:{code.co_name}")

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def test_a_call_makes_few_calls_of_our_own() -> None:
    layer, q = trivial(), draw()
    layer(q=q).sum().backward()  # sessions are opened, caches filled
    with counted_calls() as forward:
        x = layer(q=q)
    with counted_calls() as backward:
        x.backward(torch.ones_like(x))
    # About 65 and 35 of them are the KKT engine's: a system, its factors, a solve, the active set.
    assert len(forward) <= 195, forward
    assert len(backward) <= 36, backward
    assert len(forward) > 20  # the counter counts


@pytest.mark.parametrize("mode", ["fold", "unroll"])
@pytest.mark.parametrize("grad", [True, False])
def test_a_call_binds_its_problem_once(
    monkeypatch: pytest.MonkeyPatch, mode: str, grad: bool
) -> None:
    binds = []
    original = fc.Problem.bind

    def bind(self: fc.Problem, values: dict[str, Tensor], batch: int) -> fc.SmoothProgram:
        binds.append(batch)
        return original(self, values, batch)

    monkeypatch.setattr(fc.Problem, "bind", bind)
    problem = fc.Problem(
        N,
        lambda x, c: ((x - c) ** 2).sum(),
        {"c": fc.Param(N)},
        constraints=[fc.Simplex()],
    )
    steps = {} if mode == "fold" else {"iterations": 3}
    layer = fc.build({"problem": problem, "rule": "pgd", "mode": mode, **steps})
    c = draw(3).requires_grad_(grad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.FoldcoreWarning)
        layer(c=c)
    assert binds == [3]


def test_a_failed_sample_costs_one_more_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    binds = []
    original = fc.QuadraticProgram.bind

    def bind(self: fc.QuadraticProgram, values: dict[str, Tensor], batch: int) -> fc.SmoothProgram:
        binds.append(batch)
        return original(self, values, batch)

    monkeypatch.setattr(fc.QuadraticProgram, "bind", bind)
    problem = fc.QuadraticProgram(
        P=torch.eye(N, dtype=torch.float64), q=fc.Param(N), lower=fc.Param(N), upper=fc.Param(N)
    )
    layer = fc.build({"problem": problem, "rule": "newton", "on_failure": "mask"})
    lower, upper = torch.zeros(3, N, dtype=torch.float64), torch.ones(3, N, dtype=torch.float64)
    upper[1] = -1.0
    with pytest.warns(fc.SolveWarning):
        layer(q=draw(3), lower=lower, upper=upper)
    assert len(binds) == 2


class Offset(fc.Solver):
    """A solver whose answer is off by a chosen amount, so that certificates have something to say."""

    api_version = 1
    config_class = fc.PluginConfig
    capabilities = fc.Capabilities(frozenset({fc.ProblemClass.QP}))

    def __init__(self, config: fc.PluginConfig) -> None:
        self.config = config

    def open(self, structure: fc.ProgramStructure) -> fc.Session:
        return _OffsetSession()


class _OffsetSession(fc.Session):
    def solve(self, program: fc.SmoothProgram, **_: object) -> fc.Solution:
        q = program.params["q"]
        return fc.Solution(1e-4 - q, (fc.Status.OPTIMAL,) * program.batch)


class Stubborn(fc.AdjointSolver):
    """An adjoint solver that never converges."""

    api_version = 1
    config_class = fc.PluginConfig

    def __init__(self, config: fc.PluginConfig) -> None:
        self.config = config

    def solve(self, operator: fc.FixedPointOperator, cotangent: Tensor) -> fc.AdjointSolution:
        count = torch.ones(operator.batch, dtype=torch.int64)
        return fc.AdjointSolution(
            cotangent, cotangent.norm(dim=-1), count, torch.zeros_like(count, dtype=torch.bool)
        )


def unconstrained(**config: object) -> fc.Fold:
    problem = fc.QuadraticProgram(P=torch.eye(N, dtype=torch.float64), q=fc.Param(N))
    return fc.build({"problem": problem, "rule": "newton", **config})


def masked_failure() -> None:
    layer = trivial(on_failure="mask")
    layer(q=torch.full((2, N), float("nan"), dtype=torch.float64))


def rough_answer() -> None:
    unconstrained(solver=Offset(fc.PluginConfig()))(q=draw())


def weak_multiplier() -> None:
    problem = fc.QuadraticProgram(P=torch.eye(2, dtype=torch.float64), q=fc.Param(2), lower=0.0)
    layer = fc.build({"problem": problem, "solver": "daqp", "rule": "newton"})
    layer(q=torch.zeros(1, 2, dtype=torch.float64, requires_grad=True))


def stubborn_adjoint() -> None:
    rule = {"kind": "pgd", "step_size": 0.5}
    config = {"rule": rule, "adjoint": Stubborn(fc.PluginConfig()), "on_adjoint_failure": "warn"}
    x = unconstrained(**config)(q=draw())
    x.sum().backward()


def diverging_series() -> None:
    rule = {"kind": "pgd", "step_size": 3.0}
    modes = {"mode": "fixed_point_unfold", "iterations": 30, "on_adjoint_failure": "warn"}
    x = unconstrained(rule=rule, **modes)(q=draw())
    x.sum().backward()


class Complaining:
    @hookimpl
    def foldcore_solve_finished(self) -> None:
        raise RuntimeError("planted")


def raising_listener() -> None:
    with listening(Complaining()):
        trivial()(q=draw())


KINDS: list[tuple[type[fc.FoldcoreWarning], Callable[[], None]]] = [
    (fc.SolveWarning, masked_failure),
    (fc.CertificateWarning, rough_answer),
    (fc.DegenerateWarning, weak_multiplier),
    (fc.AdjointWarning, stubborn_adjoint),
    (fc.AdjointWarning, diverging_series),
    (fc.HookWarning, raising_listener),
]


@pytest.mark.parametrize(("category", "cause"), KINDS, ids=lambda one: one.__name__)
def test_a_warning_names_the_line_of_the_callers_code(
    category: type[fc.FoldcoreWarning], cause: Callable[[], None]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cause()
    ours = [one for one in caught if issubclass(one.category, fc.FoldcoreWarning)]
    assert any(issubclass(one.category, category) for one in ours), [str(o.message) for o in ours]
    first = cause.__code__.co_firstlineno
    last = max(line for _, _, line in cause.__code__.co_lines() if line is not None)
    for one in ours:
        assert Path(one.filename).name == Path(__file__).name, one
        assert first < one.lineno <= last, one
