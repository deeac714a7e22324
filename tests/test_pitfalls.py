"""Pitfalls of earlier systems (docs/contract.md tells the rules that exclude them), one test each."""

from __future__ import annotations

import copy
import gc
import math
import resource
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.registry import solvers
from foldcore.testing.problems import declare, random_qp

for name in ("newton", "pgd", "osqp", "lfpi", "gmres", "direct"):
    pytest.importorskip(f"foldcore_{name}", reason=f"pitfalls are shown with foldcore-{name}")

N = 5
ADJOINTS = ("lfpi", "gmres", "direct")


def problem() -> fc.QuadraticProgram:
    return fc.QuadraticProgram(
        P=torch.diag(torch.linspace(1.0, 2.0, N, dtype=torch.float64)), q=fc.Param(N),
        lower=torch.full((N,), -1.0, dtype=torch.float64),
        upper=torch.ones(N, dtype=torch.float64),
    )  # fmt: skip


def exact(program: fc.SmoothProgram) -> Tensor:
    x = -program.data.q / program.data.P.diagonal()
    return x.clamp(-1, 1).expand(program.batch, -1)


def layer_of(**config: Any) -> fc.Fold:
    given = {"problem": problem(), "solver": exact, "rule": "pgd", "adjoint": "gmres"}
    return fc.build({**given, **config})


def linear(*shape: int) -> Tensor:
    count = math.prod(shape)
    return torch.linspace(-1.5, 1.4, count, dtype=torch.float64).reshape(shape)


# the reference implementation


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_reference_gmres_divides_by_zero_for_a_zero_cotangent(adjoint: str) -> None:
    q = linear(3, N).requires_grad_()
    (0 * layer_of(adjoint=adjoint)(q=q)).sum().backward()
    assert torch.equal(q.grad, torch.zeros(3, N, dtype=torch.float64))


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_reference_gmres_divides_by_zero_for_a_zero_jacobian(adjoint: str) -> None:
    """All variables are at a bound: the projection's derivative, and so Φ, vanish."""
    q = torch.full((2, N), 9.0, dtype=torch.float64, requires_grad=True)
    layer_of(adjoint=adjoint)(q=q).sum().backward()
    assert torch.equal(q.grad, torch.zeros(2, N, dtype=torch.float64))


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_reference_fails_in_float64_and_returns_float32_gradients(adjoint: str) -> None:
    q = linear(3, N).requires_grad_()
    x = layer_of(adjoint={"kind": adjoint, "rtol": 1e-12})(q=q)
    x.sum().backward()
    assert x.dtype == q.grad.dtype == torch.float64
    diagonal = torch.linspace(1.0, 2.0, N, dtype=torch.float64)
    expected = torch.where((q / diagonal).abs() < 1, -1 / diagonal, 0.0)
    torch.testing.assert_close(q.grad, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_reference_fails_for_size_one(adjoint: str) -> None:
    one = torch.ones(1, dtype=torch.float64)
    single = fc.QuadraticProgram(P=3 * one[None], q=fc.Param(1), lower=-one, upper=one)
    layer = layer_of(problem=single, adjoint=adjoint)
    q = one.clone().requires_grad_()
    layer(q=q).backward()
    torch.testing.assert_close(q.grad, -one / 3)


def test_reference_takes_another_method_for_a_misspelt_name() -> None:
    for part, wrong, right in (("rule", "pdg", "pgd"), ("adjoint", "gmre", "gmres"),
                               ("solver", "osqpp", "osqp")):  # fmt: skip
        with pytest.raises(fc.UnknownPluginError, match=f"Unknown .*'{wrong}'.*'{right}'"):
            layer_of(**{part: wrong})
        with pytest.raises(fc.ConfigError, match=f"{part}.*max_itre"):
            layer_of(**{part: {"kind": right, "max_itre": 3}})
    with pytest.raises(fc.ConfigError, match=r"fixed_point.polihs.*'polish'"):
        layer_of(fixed_point={"polihs": 1})


def test_reference_gives_captured_parameters_no_gradient() -> None:
    c = torch.ones(N, dtype=torch.float64, requires_grad=True)
    with pytest.raises(fc.CapturedTensorError, match="'c'"):
        fc.Problem(N, lambda x: x @ x - c @ x)


# qpth


def test_qpth_divides_the_gradient_of_a_shared_parameter_by_the_batch() -> None:
    q = linear(N) / 4
    gradients = []
    for batch in (1, 7):
        leaf = q.clone().requires_grad_()
        lower = torch.full((batch, N), -1.0, dtype=torch.float64)
        declared = fc.QuadraticProgram(
            P=problem().P, q=fc.Param(N), lower=fc.Param(N), upper=problem().upper
        )
        layer_of(problem=declared)(q=leaf, lower=lower).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], 7 * gradients[0], rtol=1e-12, atol=1e-12)


def test_qpth_returns_plausible_numbers_for_infeasible_problems() -> None:
    data = random_qp(0, N, n_inequality=2)
    data["h"] = data["h"] - 100
    layer = fc.build({"problem": declare(data, {"q", "h"}), "solver": "osqp", "rule": "newton"})
    with pytest.raises(fc.SolveError, match="samples 0: infeasible"):
        layer(q=data["q"], h=data["h"])


# diffcp, cvxpylayers


def test_diffcp_hits_its_iteration_limit_silently() -> None:
    layer = layer_of(
        adjoint={"kind": "lfpi", "max_iter": 1}, rule={"kind": "pgd", "step_size": 0.1}
    )
    x = layer(q=0.1 * linear(2, N).requires_grad_())
    with pytest.raises(fc.AdjointError, match="after 1 products"):
        x.sum().backward()


def test_cvxpylayers_raises_for_the_whole_batch_for_one_bad_sample() -> None:
    q = linear(3, N)
    q[1, 0] = math.nan
    with pytest.warns(fc.SolveWarning, match="1 of 3"):
        x = layer_of(on_failure="mask")(q=q)
    assert x.isfinite().all(-1).tolist() == [True, False, True]


def test_diffcp_zeroes_cotangents_below_1e_8() -> None:
    q = 0.1 * linear(2, N)
    for adjoint in ADJOINTS:
        found = []
        for size in (1.0, 1e-12, 1e-200):
            leaf = q.clone().requires_grad_()
            (layer_of(adjoint=adjoint)(q=leaf) * size).sum().backward()
            found.append(leaf.grad / size)
        for scaled in found[1:]:
            torch.testing.assert_close(scaled, found[0], rtol=1e-7, atol=1e-7)


class OffByItsTolerance(fc.Solver):
    """The solution of :func:`problem`, moved by ``rtol``."""

    api_version = fc.API_VERSION
    config_class = fc.IterativeConfig
    capabilities = fc.Capabilities(frozenset({fc.ProblemClass.QP}))

    def __init__(self, config: fc.IterativeConfig) -> None:
        self.config = config

    def open(self, structure: fc.ProgramStructure) -> fc.Session:
        return _OffByItsTolerance(self.config.rtol)


class _OffByItsTolerance(fc.Session):
    def __init__(self, rtol: float) -> None:
        self._rtol = rtol

    def solve(self, program: fc.SmoothProgram, **_: object) -> fc.Solution:
        return fc.Solution(exact(program) + self._rtol, (fc.Status.OPTIMAL,) * program.batch)


def test_cvxpylayers_tolerances_never_reach_the_solver() -> None:
    quiet = {"on_violation": "ignore", "reject_above": 1.0}
    q = linear(3, N)
    with solvers.registered("rough", OffByItsTolerance):
        for rtol in (1e-2, 1e-5):
            solver = {"kind": "rough", "rtol": rtol}
            error = layer_of(solver=solver, kkt=quiet)(q=q) - layer_of()(q=q)
            torch.testing.assert_close(error, torch.full_like(error, rtol), rtol=1e-6, atol=1e-12)


def test_cvxpylayers_deepcopy_breaks_the_layer() -> None:
    layer = layer_of(solver="osqp")
    q = linear(3, N)
    expected = layer(q=q)
    assert torch.equal(copy.deepcopy(layer)(q=q), expected)
    assert torch.equal(layer(q=q), expected)


# osqp


def test_osqp_returns_nan_with_status_solved() -> None:
    """A solver that claims success for NaN, and one for a wrong point, are not believed."""

    def liar(value: float) -> Any:
        def solve(program: fc.SmoothProgram) -> fc.Solution:
            x = exact(program).clone()
            x[1] = value
            return fc.Solution(x, (fc.Status.OPTIMAL,) * program.batch)

        return solve

    for value, status in ((math.nan, "numerical"), (math.inf, "numerical"), (0.9, "inaccurate")):
        with pytest.raises(fc.SolveError, match=f"samples 1: {status}"):
            layer_of(solver=liar(value))(q=linear(3, N))


# batched solvers


def test_batched_solvers_let_results_depend_on_other_samples() -> None:
    q = linear(6, N)
    for solver in ("osqp", "iterate"):
        layer = layer_of(solver=solver, rule="pgd")
        batch = layer(q=q)
        others = q.clone()
        others[3:] *= 100
        assert torch.equal(layer(q=others)[:3], batch[:3]), solver
        for i in range(6):
            torch.testing.assert_close(layer(q=q[i : i + 1])[0], batch[i], rtol=1e-12, atol=1e-12)


def test_results_do_not_depend_on_earlier_calls() -> None:
    q = linear(3, N)
    for solver in ("osqp", "iterate"):
        layer = layer_of(solver=solver)
        first = layer(q=q)
        layer(q=100 * linear(7, N))
        assert torch.equal(layer(q=q), first), solver


# QP layers


def test_duals_of_different_solvers_differ_in_sign() -> None:
    """L = f + νᵀ(Ax-b) + μᵀ(Gx-h) + λₗᵀ(l-x) + λᵤᵀ(x-u), whoever found them."""
    data = random_qp(4, 8, n_equality=2, n_inequality=4, batch=4)
    declared = declare({k: v[0] for k, v in data.items()}, set(data))
    layer = fc.build({"problem": declared, "solver": "osqp", "rule": "newton"})
    own = layer.solve(**data)

    def without_duals(program: fc.SmoothProgram) -> Tensor:
        return own.primal

    recovered = fc.build({"problem": declared, "solver": without_duals, "rule": "newton"})
    found = recovered.solve(**data)
    program = declared.bind(data, 4)
    for solution in (own, found):
        assert solution.duals is not None
        assert program.lagrangian_gradient(solution.primal, solution.duals).abs().max() < 1e-7
        for name in ("inequality", "lower", "upper"):
            assert (getattr(solution.duals, name) >= 0).all()
            torch.testing.assert_close(
                getattr(found.duals, name), getattr(own.duals, name), rtol=1e-6, atol=1e-6
            )
    assert own.duals is not None
    assert own.duals.equality.min() < 0 < own.duals.equality.max()


# adjoint by hooks


@pytest.mark.parametrize("rule", ["pgd", "newton", "inner"])
def test_adjoint_by_hooks_makes_reference_cycles(rule: str) -> None:
    """Without a garbage collector everything a call made must die with its output."""
    inner = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
    nested = {"kind": "pgd", "projection": "inner", "inner": inner}
    layer = layer_of(rule=nested if rule == "inner" else rule)
    layer(q=linear(2, N).requires_grad_()).sum().backward()
    gc.collect()
    gc.disable()
    try:
        q = linear(2, N).requires_grad_()
        solution = layer.solve(q=q)
        x = solution.primal
        assert solution.duals is not None
        dead = [weakref.ref(x), weakref.ref(solution.duals.lower)]
        x.sum().backward()
        del x, solution
        assert [ref() for ref in dead] == [None] * len(dead)
        dead = [weakref.ref(layer(q=q))]
        assert dead[0]() is None, "a forward pass without backward keeps its output alive"
    finally:
        gc.enable()


def tensors_alive() -> int:
    gc.collect()
    return sum(isinstance(o, Tensor) for o in gc.get_objects() if type(o) is Tensor)


@pytest.mark.parametrize("rule", ["pgd", "newton"])
def test_adjoint_by_hooks_grows_in_memory_over_1000_steps(rule: str) -> None:
    layer = layer_of(rule=rule)
    weight = torch.ones(N, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([weight], lr=1e-3)
    counts, memory = [], []
    for step in range(1000):
        optimiser.zero_grad()
        layer(q=weight * linear(2, N)).square().sum().backward()
        optimiser.step()
        if step in (199, 599, 999):
            counts.append(tensors_alive())
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert counts[0] == counts[1] == counts[2]
    # In KiB. A leaked graph of each step would hold megabytes.
    assert memory[2] - memory[0] < 4096


def test_sessions_die_with_their_layer() -> None:
    from foldcore.fold import sessions

    gc.collect()
    before = len(sessions._sessions)
    layer = layer_of(solver="osqp")
    layer(q=linear(2, N))
    assert len(sessions._sessions) == before + 1
    del layer
    gc.collect()
    assert len(sessions._sessions) == before
