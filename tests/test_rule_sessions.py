"""Rules have sessions: what depends on constants alone is done once, and nothing of a call is kept."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.rules.constants import Constants

N, B = 6, 3
F64 = torch.float64

OPENED: list[fc.ProgramStructure] = []


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64)


def hessian() -> Tensor:
    factor = draw(0, N, N)
    return factor @ factor.mT / N + torch.eye(N, dtype=F64)


class Counter:
    """Counts calls of a function that is replaced by itself, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *places: str) -> None:
        self.calls = 0
        for place in places:
            module, _, name = place.rpartition(".")
            monkeypatch.setattr(
                place, self._counted(getattr(__import__(module, fromlist=[name]), name))
            )

    def _counted(self, function: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            self.calls += 1
            return function(*args, **kwargs)

        return counted


def run(layer: fc.Fold, seed: int, **more: Tensor) -> Tensor:
    q = draw(seed, B, N).requires_grad_()
    x = layer(q=q, **more)
    (x * draw(99, B, N)).sum().backward()
    assert q.grad is not None
    return torch.cat([x.detach(), q.grad])


def affine(**fields: object) -> fc.QuadraticProgram:
    return fc.QuadraticProgram(P=hessian(), q=fc.Param(N), A=draw(1, 2, N), b=draw(2, 2), **fields)


def test_pgd_does_no_work_on_constants_at_the_second_call(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("foldcore_pgd", reason="the rule under test")
    count = Counter(
        monkeypatch,
        "foldcore.rules.gradient_step.largest_eigenvalue",
        "foldcore.atoms.sets.AffineFactors",
    )
    layer = fc.build({"problem": affine(), "rule": "pgd", "adjoint": "direct"})
    count.calls = 0
    run(layer, 3)
    assert count.calls == 2  # one power iteration, one factorisation
    run(layer, 4)
    assert count.calls == 2


def test_admm_does_no_work_on_constants_at_the_second_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("foldcore_admm", reason="the rule under test")
    count = Counter(monkeypatch, "foldcore.kkt.system.Factors", "foldcore_admm.penalty._trace")
    rule = {"kind": "admm", "rho": "auto"}
    layer = fc.build({"problem": affine(lower=-1.0), "rule": rule, "adjoint": "direct"})
    run(layer, 3)
    assert count.calls == 3  # one factorisation, two traces for the penalty
    run(layer, 4)
    assert count.calls == 3


@pytest.mark.parametrize("rule", ["pgd", "admm", "sqp", "proximal", "newton"])
def test_a_second_call_is_that_of_a_fresh_layer(rule: str) -> None:
    pytest.importorskip(f"foldcore_{rule}", reason="the rule under test")
    fields = {} if rule in ("pgd", "proximal") else {"lower": -1.0}
    problem: fc.ParametricProblem = affine(**fields)
    if rule == "proximal":
        problem = fc.Problem(
            N,
            lambda x, q: (x @ MATRIX @ x) / 2 + q @ x,
            {"q": fc.Param(N)},
            regularizers=[fc.Indicator(fc.AffineSet(draw(1, 2, N), draw(2, 2)))],
        )
    config = {"problem": problem, "rule": rule, "adjoint": "direct"}
    used = fc.build(config)
    run(used, 3)
    assert torch.equal(run(used, 4), run(fc.build(config), 4))


MATRIX = hessian()


@pytest.mark.parametrize("rule", ["pgd", "admm", "sqp", "newton"])
def test_what_may_change_is_never_kept(rule: str) -> None:
    pytest.importorskip(f"foldcore_{rule}", reason="the rule under test")
    problem = fc.QuadraticProgram(
        P=fc.Param(N, N, psd=True), q=fc.Param(N), A=fc.Param(2, N), b=fc.Param(2)
    )
    config = {"problem": problem, "rule": rule, "adjoint": "direct"}
    first = {"P": hessian(), "A": draw(1, 2, N), "b": draw(2, 2)}
    second = {"P": 2 * hessian(), "A": draw(5, 2, N), "b": draw(6, 2)}
    used = fc.build(config)
    run(used, 3, **first)
    assert torch.equal(run(used, 4, **second), run(fc.build(config), 4, **second))


def test_each_dtype_has_a_session_of_its_own() -> None:
    pytest.importorskip("foldcore_pgd", reason="a rule that keeps constants")
    layer = fc.build({"problem": affine(), "rule": "pgd", "adjoint": "direct"})
    run(layer, 3)
    q = draw(4, B, N).float()
    expected = fc.build({"problem": affine(), "rule": "pgd", "adjoint": "direct"})(q=q)
    found = layer(q=q)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


class Remembering(fc.UpdateRule):
    """A rule that counts its sessions; written for version 2."""

    api_version = 2
    config_class = fc.PluginConfig

    def __init__(self, config: fc.PluginConfig) -> None:
        self.config = config

    def unsupported_reason(self, structure: fc.ProgramStructure) -> str | None:
        return None

    def open(self, structure: fc.ProgramStructure) -> fc.PreparedRule:
        OPENED.append(structure)
        return _Prepared()

    def bind(self, program: fc.SmoothProgram, inner: Mapping[str, fc.InnerFold]) -> fc.BoundRule:
        raise AssertionError("a layer binds through the session")


class _Prepared(fc.PreparedRule):
    def __init__(self) -> None:
        self.changed: list[frozenset[str]] = []
        SESSIONS.append(weakref.ref(self))

    def bind(
        self,
        program: fc.SmoothProgram,
        inner: Mapping[str, fc.InnerFold],
        changed: frozenset[str],
    ) -> fc.BoundRule:
        CHANGED.append(changed)
        return fc.GradientStep(program, lambda y, step: y, 0.5)

    def close(self) -> None:
        CLOSED.append(self)


SESSIONS: list[weakref.ref[_Prepared]] = []
CHANGED: list[frozenset[str]] = []
CLOSED: list[_Prepared] = []


@fc.solver
def unconstrained(program: fc.SmoothProgram) -> Tensor:
    return -program.params["q"]


def test_a_layer_opens_its_rule_once_and_copies_open_their_own() -> None:
    for held in (OPENED, SESSIONS, CHANGED, CLOSED):
        held.clear()
    problem = fc.QuadraticProgram(P=torch.eye(N, dtype=F64), q=fc.Param(N))
    rule = Remembering(fc.PluginConfig())
    layer = fc.build(
        {"problem": problem, "solver": unconstrained, "rule": rule, "adjoint": "direct"}
    )
    run(layer, 1)
    run(layer, 2)
    assert len(OPENED) == 1
    assert [frozenset({"q"})] * 2 == CHANGED
    run(copy.deepcopy(layer), 3)
    run(pickle.loads(pickle.dumps(layer)), 3)
    assert len(OPENED) == 3
    del layer
    gc.collect()
    assert len(CLOSED) == 3


class OldRule(Remembering):
    """A rule as version 1 knew it: ``bind`` alone."""

    api_version = 1
    open = fc.UpdateRule.open

    def bind(self, program: fc.SmoothProgram, inner: Mapping[str, fc.InnerFold]) -> fc.BoundRule:
        return fc.GradientStep(program, lambda y, step: y, 0.5)


def test_a_rule_written_for_version_1_is_bound_at_each_call() -> None:
    problem = fc.QuadraticProgram(P=torch.eye(N, dtype=F64), q=fc.Param(N))
    layer = fc.build({
        "problem": problem, "solver": unconstrained, "rule": OldRule(fc.PluginConfig()),
        "adjoint": "direct",
    })  # fmt: skip
    assert torch.equal(run(layer, 1)[B:], -draw(99, B, N))


def test_constants_keep_only_what_is_fixed() -> None:
    kept: dict[str, object] = {}
    constants = Constants(frozenset({"q", "sets"}), kept)
    made = iter(range(10))
    assert constants.once("a", ("P", "A"), lambda: next(made)) == 0
    assert Constants(frozenset({"q"}), kept).once("a", ("P", "A"), lambda: next(made)) == 0
    assert constants.once("b", ("P", "q"), lambda: next(made)) == 1
    assert constants.once("b", ("P", "q"), lambda: next(made)) == 2
    assert Constants().once("c", (), lambda: next(made)) == 3
    assert Constants().once("c", (), lambda: next(made)) == 4
    weight = torch.ones(3)
    assert constants.once_for("w", ("P",), weight, lambda: next(made)) == 5
    assert constants.once_for("w", ("P",), weight.clone(), lambda: next(made)) == 5
    assert constants.once_for("w", ("P",), 2 * weight, lambda: next(made)) == 6
    assert constants.once_for("w", ("P",), weight.expand(2, 3), lambda: next(made)) == 7
