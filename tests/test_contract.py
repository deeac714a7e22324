"""The contract (docs/contract.md), clause by clause; every guard is proven on a planted fault."""

from __future__ import annotations

import copy
import io
import math
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foldcore as fc
from foldcore import hooks
from foldcore.solvers.iterate import IterateConfig
from foldcore.testing.problems import declare, random_qp

for name in ("newton", "pgd", "osqp", "lfpi", "gmres", "direct"):
    pytest.importorskip(f"foldcore_{name}", reason=f"the contract is shown with foldcore-{name}")

N, B = 6, 5
FIELDS = ("P", "q", "lower", "upper")
Values = dict[str, Tensor]


def separable(program: fc.SmoothProgram) -> Tensor:
    """Solve min ½xᵀdiag(P)x + qᵀx over a box exactly."""
    data = program.data
    assert isinstance(data.P, Tensor)
    x = -data.q / data.P.diagonal(dim1=-2, dim2=-1)
    x = torch.minimum(torch.maximum(x, data.lower), data.upper)
    return x.expand(program.batch, -1)


def box_problem(*params: str, **constants: Tensor) -> fc.QuadraticProgram:
    fields: dict[str, Any] = {
        "P": torch.diag(torch.linspace(1.0, 2.0, N, dtype=torch.float64)),
        "q": torch.zeros(N, dtype=torch.float64),
        "lower": torch.full((N,), -1.0, dtype=torch.float64),
        "upper": torch.full((N,), 1.0, dtype=torch.float64),
        **constants,
    }
    for param in params:
        fields[param] = fc.Param(*fields[param].shape, psd=param == "P")
    return fc.QuadraticProgram(**fields)


def layer_of(problem: fc.ParametricProblem | None = None, **config: Any) -> fc.Fold:
    given = {"problem": problem or box_problem("q"), "solver": separable, "rule": "newton"}
    return fc.build({"adjoint": "direct", **given, **config})


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Reports:
    """Keeps what the layers report to hooks."""

    def __init__(self) -> None:
        self.adjoints: list[tuple[str, fc.AdjointSolution]] = []

    @hooks.hookimpl
    def foldcore_adjoint_finished(self, path: str, adjoint: fc.AdjointSolution) -> None:
        self.adjoints.append((path, adjoint))


@pytest.fixture
def reports() -> Iterator[Reports]:
    listener = Reports()
    with hooks.listening(listener):
        yield listener


# 1


def test_clause_1_every_point_carries_its_certificates() -> None:
    q = normal(B, N).requires_grad_()
    solution = layer_of(box_problem("q"), rule="pgd").solve(q=q)
    assert solution.kkt is not None
    assert solution.kkt.residual.shape == (B,)
    assert solution.kkt.residual.max() < 1e-12
    assert solution.kkt.margin.shape == (B,)
    assert solution.fixed_point_residual is not None
    assert solution.fixed_point_residual.max() < 1e-12
    with torch.no_grad():
        assert layer_of().solve(q=q).kkt is not None, "certificate (a) needs no gradient"


def test_clause_1_newton_at_rest_at_a_wrong_vertex_is_caught() -> None:
    """The duals claim that every lower bound is active; Newton is then at rest at that vertex."""

    def vertex(program: fc.SmoothProgram) -> fc.Solution:
        x = program.data.lower.expand(program.batch, -1)
        # Of both signs: where the gradient pulls away from the bound the multiplier is negative.
        multiplier = program.gradient(x)
        none = x.new_zeros(program.batch, 0)
        duals = fc.Duals(none, none, multiplier, torch.zeros_like(x))
        return fc.Solution(x, (fc.Status.OPTIMAL,) * program.batch, duals)

    problem = box_problem("q")
    q = torch.full((2, N), 3.0, dtype=torch.float64)
    q[1, 0] = 0.5
    program = problem.bind({**problem.constants, "q": q}, 2)
    rule = layer_of(problem).rule
    assert rule is not None
    bound = rule.bind(program, {})
    state = bound.lift(vertex(program))
    at_rest = bound.residual(state, bound.step(state))
    assert at_rest[0] == 0
    layer = layer_of(problem, solver=vertex)
    with pytest.raises(fc.SolveError, match="samples 1: inaccurate") as caught:
        layer(q=q.requires_grad_())
    assert caught.value.samples == (1,)


def test_clause_1_a_wrong_vertex_without_duals_is_caught() -> None:
    layer = layer_of(solver=lambda p: p.data.upper.expand(p.batch, -1))
    with pytest.raises(fc.SolveError, match="stationarity") as caught:
        layer(q=torch.ones(3, N, dtype=torch.float64))
    assert caught.value.samples == (0, 1, 2)


def test_clause_1_pgd_with_a_tiny_step_is_caught() -> None:
    """With step 1e-9 any point is nearly at rest: ‖U(z) - z‖ says nothing, both certificates do."""

    def wrong(program: fc.SmoothProgram) -> Tensor:
        return torch.zeros(program.batch, N, dtype=torch.float64)

    q = torch.full((2, N), 0.5, dtype=torch.float64)
    tiny: dict[str, Any] = {"kind": "pgd", "step_size": 1e-9}
    with pytest.raises(fc.SolveError, match="inaccurate"):
        layer_of(solver=wrong, rule=tiny)(q=q)
    lax = {"reject_above": 10.0, "on_violation": "ignore"}
    layer = layer_of(solver=wrong, rule=tiny, kkt=lax, fixed_point={"on_violation": "raise"})
    with pytest.raises(fc.CertificateError, match="not a fixed point") as caught:
        layer(q=q.requires_grad_())
    assert caught.value.samples == (0, 1)


@pytest.mark.parametrize("error", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_clause_1_inaccuracy_is_measured_not_exaggerated(error: float) -> None:
    """A solver without duals that misses its active bounds by a little is off by a little."""
    problem = box_problem("q")
    q = 3 * normal(B, N)
    program = problem.bind({**problem.constants, "q": q}, B)
    exact = separable(program)
    assert (exact.abs() == 1).any()
    report, _ = fc.kkt_report(program, exact * (1 - error))
    assert (report.residual <= 3 * error).all()
    assert report.residual.max() >= 0.1 * error


def test_clause_1_tolerances_depend_on_the_dtype() -> None:
    layer = layer_of(kkt={"on_violation": "raise"}, fixed_point={"on_violation": "raise"})
    q = normal(B, N).float().requires_grad_()
    assert layer(q=q).dtype == torch.float32


# 2


def test_clause_2_an_unconverged_adjoint_is_never_silent(reports: Reports) -> None:
    q = normal(B, N).requires_grad_()
    weak = {"kind": "lfpi", "max_iter": 2, "rtol": 1e-12}
    x = layer_of(box_problem("q"), rule="pgd", adjoint=weak)(q=q)
    weights = torch.ones(B, N, dtype=torch.float64)
    weights[2] = 0.0
    with pytest.raises(fc.AdjointError, match="LFPIAdjoint did not converge for 4 of 5") as caught:
        (x * weights).sum().backward()
    assert caught.value.samples == (0, 1, 3, 4)
    assert q.grad is None
    ((_, report),) = reports.adjoints
    assert report.converged.tolist() == [False, False, True, False, False]
    assert report.residual.shape == report.iterations.shape == (B,)
    assert report.iterations.tolist() == [2, 2, 0, 2, 2]
    assert (report.residual[[0, 1, 3, 4]] > 1e-6).all()
    assert report.residual[2] == 0


def test_clause_2_mask_and_warn_do_as_they_say() -> None:
    exact = gradient_of(layer_of(box_problem("q"), rule="pgd"), q=normal(B, N))["q"]
    weak = {"kind": "lfpi", "max_iter": 2, "rtol": 1e-12}
    for policy in ("mask", "warn"):
        layer = layer_of(box_problem("q"), rule="pgd", adjoint=weak, on_adjoint_failure=policy)
        with pytest.warns(fc.FoldcoreWarning, match="did not converge"):
            found = gradient_of(layer, q=normal(B, N))["q"]
        if policy == "mask":
            assert (found == 0).all()
        else:
            assert 1e-6 < (found - exact).abs().max() < 1.0


def gradient_of(layer: fc.Fold, weights: Tensor | None = None, **values: Tensor) -> Values:
    """Return the gradient of Σ weights·x in every value; failed samples count as 0."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in values.items()}
    x = layer(**leaves)
    weights = normal(*x.shape, seed=7) if weights is None else weights
    (torch.nan_to_num(x) * weights).sum().backward()
    return {k: v.grad for k, v in leaves.items() if v.grad is not None}


# 3


def failing_batches() -> tuple[fc.QuadraticProgram, Values]:
    data = random_qp(3, N, n_equality=1, n_inequality=2, batch=B)
    return declare({k: v[0] for k, v in data.items()}, set(data)), data


FAULTS: dict[str, Callable[[Values], None]] = {
    "NaN in q": lambda data: data["q"][2].fill_(math.nan),
    "inf in P": lambda data: data["P"][2].fill_(math.inf),
    "crossed bounds": lambda data: data["lower"][2].add_(10.0),
    "empty set that only a solver finds": lambda data: data["h"][2].sub_(1e3),
    "indefinite P": lambda data: data["P"][2].neg_(),
    "badly scaled, but good": lambda data: data["q"][2].mul_(1e3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_clause_3_a_failed_sample_harms_no_other(fault: str) -> None:
    problem, clean = failing_batches()
    faulty = {k: v.clone() for k, v in clean.items()}
    FAULTS[fault](faulty)
    layer = layer_of(problem, solver="osqp", rule="newton", on_failure="mask")
    compare_neighbours(layer, clean, faulty, fails="good" not in fault)


@pytest.mark.filterwarnings("ignore::foldcore.errors.SolveWarning")
def compare_neighbours(layer: fc.Fold, clean: Values, faulty: Values, *, fails: bool) -> None:
    others = [0, 1, 3, 4]
    weights = normal(B, N, seed=5)
    expected = layer.solve(**clean)
    expected_gradient = gradient_of(layer, weights, **clean)
    if fails:
        with pytest.warns(fc.SolveWarning, match="samples 2"):
            found = layer.solve(**faulty)
        with pytest.warns(fc.SolveWarning):
            gradient = gradient_of(layer, weights, **faulty)
        assert found.failed == (2,)
        assert found.primal[2].isnan().all()
        assert found.kkt is not None
        if found.status[2] is not fc.Status.INACCURATE:
            assert found.kkt.residual[2].isnan(), "the placeholder's certificate is not reported"
        assert all((g[2] == 0).all() for g in gradient.values())
    else:
        found, gradient = layer.solve(**faulty), gradient_of(layer, weights, **faulty)
    assert torch.equal(found.primal[others], expected.primal[others])
    for name, value in gradient.items():
        assert torch.equal(value[others], expected_gradient[name][others]), name


@pytest.mark.parametrize("solver", ["callable", "iterate", "osqp"])
@pytest.mark.parametrize("rule", ["newton", "pgd"])
@pytest.mark.parametrize("neighbour", ["NaN", "crossed", "slow"])
def test_clause_3_neighbours_are_bitwise_those_of_a_clean_batch(
    solver: str, rule: str, neighbour: str
) -> None:
    if (solver, rule) == ("iterate", "newton"):
        pytest.skip("iterating newton finds no solutions")
    if solver == "callable":
        P = torch.diag_embed(normal(B, N).exp())
    else:
        P = random_qp(1, N, batch=B)["P"]
    ones = torch.ones(B, N, dtype=torch.float64)
    clean = {"P": P, "q": 2 * normal(B, N, seed=1), "lower": -ones, "upper": 0.7 * ones}
    faulty = {k: v.clone() for k, v in clean.items()}
    if neighbour == "NaN":
        faulty["q"][2, 0] = math.nan
    elif neighbour == "crossed":
        faulty["upper"][2] = -2.0
    else:
        # Its power iteration and its solve take longer than the neighbours' do.
        faulty["P"][2] = torch.diag(torch.linspace(0.95, 1.0, N, dtype=torch.float64)) * 50
    layer = layer_of(
        box_problem(*FIELDS),
        solver=separable if solver == "callable" else solver,
        rule=rule,
        adjoint="gmres",
        on_failure="mask",
    )
    compare_neighbours(layer, clean, faulty, fails=neighbour != "slow")


def test_clause_3_a_callable_that_fails_on_one_sample() -> None:
    def partly(program: fc.SmoothProgram) -> Tensor:
        x = separable(program).clone()
        x[(program.params["q"] > 90).any(-1)] = math.nan
        return x

    clean, faulty = {"q": normal(B, N)}, {"q": normal(B, N)}
    faulty["q"][2, 3] = 100.0
    layer = layer_of(solver=partly, on_failure="mask")
    compare_neighbours(layer, clean, faulty, fails=True)
    with pytest.raises(fc.SolveError, match="NaN") as caught:
        layer_of(solver=partly)(**faulty)
    assert caught.value.samples == (2,)


def test_clause_3_a_failed_inner_sample_fails_that_outer_sample_alone() -> None:
    """The inner projection's set is empty for one sample, but the black box does not notice."""
    inner = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
    rule = {"kind": "pgd", "projection": "inner", "inner": inner}
    data = random_qp(3, N, n_inequality=2, batch=B)
    problem = declare({k: v[0] for k, v in data.items()}, set(data))
    truth = fc.build({"problem": problem, "solver": "osqp", "rule": "newton"})(**data)
    lax = {"reject_above": 1e9, "on_violation": "ignore"}
    layer = layer_of(
        problem, solver=lambda program: truth, rule=rule, on_failure="mask", kkt=lax,
        fixed_point={"on_violation": "ignore"},
    )  # fmt: skip
    faulty = {k: v.clone() for k, v in data.items()}
    faulty["h"][2] -= 1e3
    expected = gradient_of(layer, normal(B, N), **data)
    with pytest.warns(fc.SolveWarning, match="rule.inner"):
        found = gradient_of(layer, normal(B, N), **faulty)
    others = [0, 1, 3, 4]
    for name, value in found.items():
        assert torch.equal(value[others], expected[name][others]), name
        assert (value[2] == 0).all(), name


def test_clause_3_all_samples_failed_gives_zero_gradients() -> None:
    q = torch.full((2, N), math.nan, dtype=torch.float64)
    layer = layer_of(on_failure="mask")
    with pytest.warns(fc.SolveWarning, match="2 of 2"):
        gradient = gradient_of(layer, q=q)
    assert torch.equal(gradient["q"], torch.zeros(2, N, dtype=torch.float64))


def test_clause_3_layer_of_batch_equals_layer_of_each_sample() -> None:
    problem, data = failing_batches()
    layer = layer_of(problem, solver="osqp")
    together = layer(**data)
    for i in range(B):
        alone = layer(**{k: v[i : i + 1] for k, v in data.items()})
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


# 4


@pytest.mark.parametrize("adjoint", ["direct", "gmres", "lfpi"])
@pytest.mark.parametrize("rule", ["newton", "pgd"])
def test_clause_4_zero_cotangent_zero_jacobian_and_size_one(rule: str, adjoint: str) -> None:
    problem, data = failing_batches()
    inner = {"solver": "osqp", "rule": "newton"}
    choice = {"kind": "pgd", "inner": inner} if rule == "pgd" else rule
    layer = layer_of(problem, solver="osqp", rule=choice, adjoint=adjoint)
    gradient = gradient_of(layer, torch.zeros(B, N, dtype=torch.float64), **data)
    assert set(gradient) == set(data)
    assert all((value == 0).all() for value in gradient.values())
    one = torch.ones(1, 1, dtype=torch.float64)
    tiny = fc.QuadraticProgram(P=2 * one, q=fc.Param(1), lower=-one[0], upper=one[0])
    small = layer_of(tiny, rule=rule, adjoint=adjoint)
    assert torch.equal(gradient_of(small, one, q=one / 2)["q"], -one / 2)
    assert torch.equal(gradient_of(small, one, q=5 * one)["q"], 0 * one)
    assert small(q=one[0]).shape == (1,)


@pytest.mark.parametrize("adjoint", ["direct", "gmres", "lfpi"])
def test_clause_4_zero_jacobian_takes_at_most_one_product(adjoint: str, reports: Reports) -> None:
    gradient_of(layer_of(adjoint=adjoint), q=normal(B, N))
    # P = I and step 1: the gradient step lands on the minimiser whatever its start, Φ = 0.
    unit = box_problem("q", P=torch.eye(N, dtype=torch.float64))
    gradient_of(layer_of(unit, rule={"kind": "pgd", "step_size": 1.0}, adjoint=adjoint),
                q=normal(B, N))  # fmt: skip
    known, found_out = (report for _, report in reports.adjoints)
    assert known.converged.all()
    assert (known.iterations == 0).all()
    assert found_out.converged.all()
    # direct assembles Φ from N products where nothing tells it to be zero
    assert found_out.iterations.max() <= (N + 1 if adjoint == "direct" else 2)


def test_clause_4_spectral_radius_above_one_is_reported(reports: Reports) -> None:
    q = 0.1 * normal(B, N)
    rule = {"kind": "pgd", "step_size": 1.5}
    with pytest.raises(fc.AdjointError, match="LFPIAdjoint did not converge"):
        gradient_of(layer_of(rule=rule, adjoint="lfpi"), q=q)
    ((_, report),) = reports.adjoints
    assert report.adjoint.isfinite().all()
    expected = gradient_of(layer_of(rule="newton"), q=q)["q"]
    found = gradient_of(layer_of(rule=rule, adjoint="gmres"), q=q)["q"]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_clause_4_spectral_radius_of_exactly_one_is_reported() -> None:
    """A flat direction: P is singular and the solution not unique, so I - Φ is singular."""
    P = torch.diag(torch.tensor([1.0] * (N - 1) + [0.0], dtype=torch.float64))
    q = 0.1 * normal(B, N)
    q[:, -1] = 0.0

    def flat(program: fc.SmoothProgram) -> Tensor:
        return -program.data.q

    for adjoint in ("lfpi", "gmres", "direct"):
        layer = layer_of(box_problem("q", P=P), solver=flat, rule="pgd", adjoint=adjoint)
        with pytest.raises((fc.AdjointError, fc.NumericalError)) as caught:
            gradient_of(layer, q=q)
        assert caught.value.samples == tuple(range(B))


# 5


@pytest.mark.parametrize("rule", ["newton", "pgd"])
@pytest.mark.parametrize("shared", FIELDS)
def test_clause_5_a_shared_parameter_gets_the_sum(rule: str, shared: str) -> None:
    P = torch.diag_embed(normal(B, N).exp())
    ones = torch.ones(B, N, dtype=torch.float64)
    values = {"P": P, "q": 2 * normal(B, N, seed=1), "lower": -ones, "upper": 0.7 * ones}
    values[shared] = values[shared][:1].expand_as(values[shared]).contiguous()
    layer = layer_of(box_problem(*FIELDS), rule=rule)
    each = gradient_of(layer, **values)
    mixed = gradient_of(layer, **{**values, shared: values[shared][0]})
    assert mixed[shared].shape == values[shared][0].shape
    torch.testing.assert_close(mixed[shared], each[shared].sum(0), rtol=1e-9, atol=1e-9)
    assert each[shared].abs().max() > 1e-3
    for name in set(FIELDS) - {shared}:
        torch.testing.assert_close(mixed[name], each[name], rtol=1e-9, atol=1e-9)


# 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", ["newton", "pgd"])
@pytest.mark.parametrize("solver", ["callable", "iterate", "osqp"])
def test_clause_6_dtype_and_device_are_the_inputs(
    solver: str, rule: str, dtype: torch.dtype
) -> None:
    if (solver, rule) == ("iterate", "newton"):
        pytest.skip("iterating newton finds no solutions")
    layer = layer_of(solver=separable if solver == "callable" else solver, rule=rule)
    q = normal(B, N).to(dtype).requires_grad_()
    solution = layer.solve(q=q)
    solution.primal.sum().backward()
    assert q.grad is not None
    assert solution.duals is not None
    for value in (solution.primal, q.grad, *vars(solution.duals).values()):
        assert value.dtype == dtype
        assert value.device == q.device
    fine = gradient_of(layer, torch.ones(B, N, dtype=torch.float64), q=q.detach().double())["q"]
    error = (q.grad.double() - fine).abs().max()
    assert error <= (1e-9 if dtype == torch.float64 else 1e-4)


def test_clause_6_float64_values_have_float64_accuracy() -> None:
    """A detour through float32 anywhere would leave an error of 1e-7."""
    q = normal(B, N)
    expected = separable(box_problem("q").bind({**box_problem("q").constants, "q": q}, B))
    for solver in ("osqp", "iterate"):
        assert (layer_of(solver=solver, rule="pgd")(q=q) - expected).abs().max() < 1e-9


# 7


def test_clause_7_nothing_is_regularised_silently() -> None:
    """Dependent active rows make the KKT matrix singular: an error, no ridge that hides it."""
    ones = torch.ones(2, N, dtype=torch.float64)
    ones[1] *= 2
    problem = fc.QuadraticProgram(
        P=torch.eye(N, dtype=torch.float64), q=fc.Param(N), G=ones,
        h=torch.tensor([-1.0, -2.0], dtype=torch.float64),
    )  # fmt: skip

    def answer(program: fc.SmoothProgram) -> Tensor:
        return torch.full((program.batch, N), -1 / N, dtype=torch.float64)

    report, _ = fc.kkt_report(
        problem.bind({**problem.constants, "q": torch.zeros(1, N, dtype=torch.float64)}, 1),
        torch.full((1, N), -1 / N, dtype=torch.float64),
    )
    assert not report.unique_duals.any()
    assert report.residual.max() < 1e-9
    linear_program = fc.QuadraticProgram(
        q=fc.Param(N), lower=torch.zeros(N, dtype=torch.float64),
        upper=torch.ones(N, dtype=torch.float64),
    )  # fmt: skip
    vertex = layer_of(linear_program, solver=lambda p: (p.data.q < 0).to(p.dtype))
    q = normal(B, N)
    solution = vertex.solve(q=q)
    assert solution.kkt is not None
    assert torch.equal(vertex(q=q), (q < 0).double()), "the answer is the vertex itself"
    assert (gradient_of(vertex, q=q)["q"] == 0).all(), "and its gradient is exactly zero"


def test_clause_7_weakly_active_constraints_are_reported_per_sample() -> None:
    q = normal(B, N)
    diagonal = torch.linspace(1.0, 2.0, N, dtype=torch.float64)
    q[1, 2] = diagonal[2]  # the unconstrained minimiser is exactly the lower bound -1
    q[3, 2] = diagonal[2] + 1e-4
    with torch.no_grad():
        report = layer_of().solve(q=q).kkt
    assert report is not None
    assert report.margin[1] <= 1e-15
    assert 1e-6 < report.margin[3] < 1e-4
    assert (report.margin[[0, 2, 4]] > 1e-3).all()
    with pytest.warns(fc.FoldcoreWarning, match=r"1 samples \(1\)"):
        layer_of()(q=q.requires_grad_())


# 8


def test_clause_8_a_needed_gradient_arrives_or_raises() -> None:
    """Every parameter of every kind gets its gradient, through the constraints too."""
    data = random_qp(2, 12, n_equality=2, n_inequality=6, batch=B)
    problem = declare({k: v[0] for k, v in data.items()}, set(data))
    gradient = gradient_of(layer_of(problem, solver="osqp"), **data)
    assert set(gradient) == set(data)
    for name, value in gradient.items():
        assert value.abs().max() > 1e-6, name


weight = torch.ones(N, requires_grad=True)


def test_clause_8_captured_tensor_is_named() -> None:
    hidden = torch.ones(N, requires_grad=True)
    net = nn.Linear(N, 1).double()

    def with_default(x: Tensor, c: Tensor, scale: Tensor = hidden) -> Tensor:
        return (scale * x * x).sum() + c @ x

    params = {"c": fc.Param(N)}
    planted: dict[str, Callable[..., Tensor]] = {
        "hidden": lambda x, c: (hidden * x * x).sum() + c @ x,
        "scale": with_default,
        "net": lambda x, c: net(x).square().sum() + c @ x,
        "weight": lambda x, c: (weight * x * x).sum() + c @ x,
    }
    for name, function in planted.items():
        with pytest.raises(fc.CapturedTensorError, match=f"'{name}'"):
            fc.Problem(N, function, params)
    with pytest.raises(fc.CapturedTensorError, match=r"inequality .*'hidden'"):
        fc.Problem(N, lambda x: x @ x, inequality=lambda x: (hidden * x).sum().reshape(1))
    with pytest.raises(fc.CapturedTensorError, match=r"equality .*'net'"):
        fc.Problem(N, lambda x: x @ x, equality=lambda x: net(x))


def test_clause_8_constants_that_need_a_gradient_are_refused() -> None:
    grad = torch.ones(N, dtype=torch.float64, requires_grad=True)
    with pytest.raises(fc.ProblemError, match="lower needs a gradient"):
        fc.QuadraticProgram(q=fc.Param(N), lower=grad)
    with pytest.raises(fc.ProblemError, match="upper needs a gradient"):
        fc.Problem(N, lambda x: x @ x, upper=grad)
    with pytest.raises(fc.ProblemError, match="center needs a gradient"):
        fc.Problem(N, lambda x: x @ x, constraints=[fc.L2Ball(1.0, grad)])
    index = torch.arange(N)
    with pytest.raises(fc.ProblemError, match="P needs a gradient"):
        fc.QuadraticProgram(P=fc.Sparse(index, index, (N, N), grad), q=fc.Param(N))


def test_clause_8_learnable_parameters_and_modules_get_gradients() -> None:
    net = nn.Linear(N, N, bias=False).double()
    problem = fc.Problem(
        N,
        lambda x, c, s, module: (x - module(c)) @ (x - module(c)) * s / 2,
        {"c": fc.Param(N), "s": fc.Param(init=torch.tensor(2.0, dtype=torch.float64))},
        lower=-0.2,
        upper=0.3,
        module=net,
    )
    layer = fc.build({"problem": problem, "solver": "osqp", "rule": "newton", "adjoint": "direct"})
    c = normal(B, N)
    x = layer(c=c)
    torch.testing.assert_close(x, net(c).clamp(-0.2, 0.3), rtol=0, atol=1e-9)
    weights = normal(B, N, seed=2)
    (x * weights).sum().backward()
    found = layer.module.weight.grad
    (expected,) = torch.autograd.grad((net(c).clamp(-0.2, 0.3) * weights).sum(), net.weight)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert abs(layer.s.grad) < 1e-9


# 9


@pytest.mark.parametrize("solver", ["lambda", "osqp", "iterate"])
def test_clause_9_layers_copy_pickle_and_travel(solver: str) -> None:
    inner = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
    layer = layer_of(
        box_problem("q"),
        solver=(lambda program: separable(program)) if solver == "lambda" else solver,
        rule={"kind": "pgd", "projection": "inner", "inner": inner},
        adjoint="gmres",
    )
    q = normal(B, N)
    expected = gradient_of(layer, q=q)["q"]
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ]
    for other in copies:
        assert torch.equal(gradient_of(other, q=q)["q"], expected)
        assert other.config.rule is not None


def test_clause_9_callables_inside_inner_folds_travel() -> None:
    inner = {"solver": lambda program: separable(program), "rule": "newton"}
    layer = layer_of(rule={"kind": "pgd", "projection": "inner", "inner": inner})
    other = pickle.loads(pickle.dumps(layer))
    q = normal(B, N)
    assert torch.equal(gradient_of(other, q=q)["q"], gradient_of(layer, q=q)["q"])


def test_clause_9_problems_by_function_and_learnables_travel() -> None:
    scale = 2.0
    problem = fc.Problem(
        N, lambda x, c: scale * (x**4).sum() - c @ x, {"c": fc.Param(N, init=normal(N))}, lower=0.0
    )
    layer = layer_of(problem, solver=lambda p: (p.params["c"].clamp(min=0) / 8).pow(1 / 3)[None])
    with torch.no_grad():
        layer.c.add_(1.0)
    other = pickle.loads(pickle.dumps(layer))
    assert torch.equal(other(), layer())
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.c.zero_()
    assert not torch.equal(layer.c, twin.c), "a copy owns its parameters"


def test_clause_9_a_spawned_worker_solves() -> None:
    layer = layer_of(solver="osqp")
    q = normal(B, N)
    expected = layer(q=q)  # a session is open in this process
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(layer.forward, q=q).result(timeout=120)
    assert torch.equal(found, expected)


# 10


def flat(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def off_by(error: float) -> Callable[[fc.SmoothProgram], Tensor]:
    return lambda program: separable(program) * (1 - error)


def raises(error: type[Exception], match: str, layer: fc.Fold, **values: Tensor) -> None:
    with pytest.raises(error, match=match):
        gradient_of(layer, **values)


def silent(layer: fc.Fold, **values: Tensor) -> Values:
    return gradient_of(layer, **values)  # a FoldcoreWarning would be an error here


def check_problem() -> None:
    assert fc.build({"problem": box_problem("q")}).problem.n == N
    with pytest.raises(fc.ConfigError, match="problem: missing"):
        fc.build({"solver": "osqp"})


def check_solver() -> None:
    seen = []
    layer = layer_of(solver=lambda program: seen.append(1) or separable(program))
    layer(q=normal(B, N))
    assert seen == [1]


def check_rule() -> None:
    assert type(layer_of(rule="pgd").rule).__name__ == "PGDRule"
    assert type(layer_of(rule="newton").rule).__name__ == "NewtonRule"


def check_adjoint() -> None:
    assert type(layer_of(adjoint="lfpi").adjoint).__name__ == "LFPIAdjoint"
    assert type(layer_of(adjoint={"kind": "gmres"}).adjoint).__name__ == "GMRESAdjoint"


def check_mode() -> None:
    q = normal(B, N)
    counted = []

    def counting(program: fc.SmoothProgram) -> Tensor:
        counted.append(1)
        return separable(program)

    exact = silent(layer_of(rule="pgd", solver=counting), q=q)["q"]
    steps = {"iterations": 400, "rule": "pgd", "solver": counting}
    near = silent(layer_of(mode="fixed_point_unfold", **steps), q=q)["q"]
    assert len(counted) == 2
    for mode in ("unfold", "unroll"):
        far = silent(layer_of(mode=mode, **steps), q=q)["q"]
        torch.testing.assert_close(far, exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(near, exact, rtol=1e-9, atol=1e-9)
    assert len(counted) == 2, "unfolding starts from the rule's own start, not from the solver"


def check_relaxation() -> None:
    problem = fc.QuadraticProgram(P=torch.eye(N), q=fc.Param(N), lower=0.0, upper=1.0, integer=[0])
    parts = {"problem": problem, "solver": "osqp", "rule": "newton"}
    with pytest.raises(fc.ConfigError, match="relaxation: missing"):
        fc.build(parts)
    relaxed = fc.build({**parts, "relaxation": "continuous"})
    x = relaxed(q=torch.full((1, N), -0.5, dtype=torch.float64))
    torch.testing.assert_close(x, torch.full_like(x, 0.5))


def check_iterations() -> None:
    q = 0.3 * normal(B, N)
    diagonal = torch.linspace(1.0, 2.0, N, dtype=torch.float64)
    for steps in (1, 3):
        layer = layer_of(rule={"kind": "pgd", "step_size": 0.5}, mode="fixed_point_unfold",
                         iterations=steps)  # fmt: skip
        found = gradient_of(layer, torch.ones(B, N, dtype=torch.float64), q=q)["q"]
        # Σ_{k<steps} (1 - αp)^k α
        series = sum(0.5 * (1 - 0.5 * diagonal) ** k for k in range(steps))
        torch.testing.assert_close(found, -series.expand(B, N), rtol=1e-12, atol=1e-12)


def check_fixed_point_atol() -> None:
    lax = {"reject_above": 1.0, "on_violation": "ignore"}
    strict = layer_of(solver=off_by(1e-4), rule="pgd", kkt=lax,
                      fixed_point={"atol": 1e-6, "on_violation": "raise"})  # fmt: skip
    raises(fc.CertificateError, "not a fixed point", strict, q=normal(B, N))
    loose = layer_of(solver=off_by(1e-4), rule="pgd", kkt=lax,
                     fixed_point={"atol": 1e-2, "on_violation": "raise"})  # fmt: skip
    silent(loose, q=normal(B, N))


def check_fixed_point_polish() -> None:
    q = normal(B, N)
    lax = {"on_violation": "ignore"}
    exact = layer_of()(q=q)
    rough = layer_of(solver=off_by(1e-4), kkt=lax, fixed_point=lax)(q=q)
    better = layer_of(solver=off_by(1e-4), kkt=lax, fixed_point={"polish": 1})(q=q)
    assert (rough - exact).abs().max() > 1e-5
    assert (better - exact).abs().max() < 1e-12


def check_fixed_point_on_violation() -> None:
    lax = {"reject_above": 1.0, "on_violation": "ignore"}

    def layer(policy: str) -> fc.Fold:
        return layer_of(solver=off_by(1e-4), rule="pgd", kkt=lax,
                        fixed_point={"on_violation": policy})  # fmt: skip

    raises(fc.CertificateError, "not a fixed point", layer("raise"), q=normal(B, N))
    with pytest.warns(fc.CertificateWarning, match="not a fixed point"):
        gradient_of(layer("warn"), q=normal(B, N))
    silent(layer("ignore"), q=normal(B, N))


def check_kkt_atol() -> None:
    quiet = {"on_violation": "ignore"}
    for atol, fails in ((1e-6, True), (9e-3, False)):
        layer = layer_of(solver=off_by(1e-4), fixed_point=quiet,
                         kkt={"atol": atol, "on_violation": "raise"})  # fmt: skip
        if fails:
            raises(fc.CertificateError, "KKT residual", layer, q=normal(B, N))
        else:
            silent(layer, q=normal(B, N))


def check_kkt_reject_above() -> None:
    quiet = {"on_violation": "ignore"}
    raises(fc.SolveError, "inaccurate",
           layer_of(solver=off_by(1e-4), fixed_point=quiet, kkt={"reject_above": 1e-6, **quiet}),
           q=normal(B, N))  # fmt: skip
    silent(layer_of(solver=off_by(1e-2), fixed_point=quiet, kkt={"reject_above": 1.0, **quiet}),
           q=normal(B, N))  # fmt: skip


def check_kkt_on_violation() -> None:
    def layer(policy: str) -> fc.Fold:
        return layer_of(solver=off_by(1e-4), kkt={"on_violation": policy},
                        fixed_point={"on_violation": "ignore"})  # fmt: skip

    raises(fc.CertificateError, "KKT residual", layer("raise"), q=normal(B, N))
    with pytest.warns(fc.CertificateWarning, match="KKT residual"):
        gradient_of(layer("warn"), q=normal(B, N))
    silent(layer("ignore"), q=normal(B, N))


def nearly_weak() -> Tensor:
    q = flat(0.3, 2, N)
    q[1, 0] = 1.0 + 1e-5  # multiplier 1e-5 at the lower bound -1
    return q


def check_degeneracy_margin() -> None:
    silent(layer_of(), q=nearly_weak())
    raises(fc.DegenerateError, "degenerate",
           layer_of(degeneracy={"margin": 1e-4, "policy": "raise"}), q=nearly_weak())  # fmt: skip


def check_degeneracy_policy() -> None:
    q = flat(0.3, 2, N)
    q[1, 0] = 1.0
    raises(fc.DegenerateError, r"\(1\)", layer_of(degeneracy={"policy": "raise"}), q=q)
    with pytest.warns(fc.DegenerateWarning, match=r"\(1\)"):
        gradient_of(layer_of(degeneracy={"policy": "one_sided"}), q=q)
    # A flat direction with a cotangent across it: the adjoint system is singular, and only
    # minimum_norm accepts a gradient that is not unique; see tests of the adjoint plugins.
    with pytest.warns(fc.DegenerateWarning):
        gradient_of(layer_of(degeneracy={"policy": "minimum_norm"}), q=q)


def check_on_failure() -> None:
    q = normal(B, N)
    q[2] = math.nan
    with pytest.raises(fc.InputError, match="'q' contains NaN or inf in samples 2"):
        layer_of(on_failure="raise")(q=q)
    with pytest.warns(fc.SolveWarning):
        assert layer_of(on_failure="mask")(q=q)[2].isnan().all()


def check_on_adjoint_failure() -> None:
    test_clause_2_mask_and_warn_do_as_they_say()


def check_pgd_step_size() -> None:
    reached = []
    for step in (0.2, 0.5):
        solution = layer_of(solver="iterate", rule={"kind": "pgd", "step_size": step}).solve(
            q=normal(B, N)
        )
        reached.append(max(solution.iterations))
    assert reached[0] > reached[1]


def check_pgd_projection() -> None:
    assert list(layer_of(rule={"kind": "pgd", "projection": "inner"}).inner) == ["inner"]
    assert list(layer_of(rule={"kind": "pgd", "projection": "closed_form"}).inner) == []
    assert list(layer_of(rule={"kind": "pgd"}).inner) == []


def check_pgd_inner() -> None:
    calls = []

    def projection(program: fc.SmoothProgram) -> Tensor:
        calls.append(program.batch)
        return separable(program)

    rule = {"kind": "pgd", "projection": "inner", "inner": {"solver": projection}}
    gradient_of(layer_of(rule=rule), q=normal(B, N))
    assert calls


def iterated(**options: Any) -> fc.Solution:
    return layer_of(
        solver={"kind": "iterate", **options}, rule={"kind": "pgd", "step_size": 0.1},
        kkt={"reject_above": 1e3, "on_violation": "ignore"},
    ).solve(q=normal(B, N))  # fmt: skip


def check_iterate_rtol() -> None:
    assert max(iterated(rtol=1e-2, atol=0.0).iterations) < max(
        iterated(rtol=1e-8, atol=0.0).iterations
    )


def check_iterate_atol() -> None:
    assert max(iterated(atol=1e-2, rtol=0.0).iterations) < max(
        iterated(atol=1e-8, rtol=0.0).iterations
    )


def check_iterate_max_iter() -> None:
    with pytest.raises(fc.SolveError, match="iteration_limit"):
        iterated(max_iter=3)


CHECKS: Mapping[str, Callable[[], None]] = {
    "FoldConfig.problem": check_problem,
    "FoldConfig.solver": check_solver,
    "FoldConfig.rule": check_rule,
    "FoldConfig.adjoint": check_adjoint,
    "FoldConfig.relaxation": check_relaxation,
    "FoldConfig.mode": check_mode,
    "FoldConfig.iterations": check_iterations,
    "FoldConfig.fixed_point": check_fixed_point_atol,
    "FoldConfig.kkt": check_kkt_atol,
    "FoldConfig.degeneracy": check_degeneracy_policy,
    "FoldConfig.on_failure": check_on_failure,
    "FoldConfig.on_adjoint_failure": check_on_adjoint_failure,
    "FixedPointConfig.atol": check_fixed_point_atol,
    "FixedPointConfig.polish": check_fixed_point_polish,
    "FixedPointConfig.on_violation": check_fixed_point_on_violation,
    "KKTConfig.atol": check_kkt_atol,
    "KKTConfig.reject_above": check_kkt_reject_above,
    "KKTConfig.on_violation": check_kkt_on_violation,
    "DegeneracyConfig.margin": check_degeneracy_margin,
    "DegeneracyConfig.policy": check_degeneracy_policy,
    "PGDConfig.step_size": check_pgd_step_size,
    "PGDConfig.projection": check_pgd_projection,
    "PGDConfig.inner": check_pgd_inner,
    "IterateConfig.rtol": check_iterate_rtol,
    "IterateConfig.atol": check_iterate_atol,
    "IterateConfig.max_iter": check_iterate_max_iter,
}


@pytest.mark.parametrize("field", CHECKS)
def test_clause_10_settings_reach_what_they_set(field: str) -> None:
    CHECKS[field]()


def test_clause_10_every_config_field_has_its_test() -> None:
    """Fails when a field without a test is added."""
    from foldcore_pgd import PGDConfig

    models = [fc.FoldConfig, fc.FixedPointConfig, fc.KKTConfig, PGDConfig, IterateConfig]
    models.append(type(fc.FoldConfig().degeneracy))
    fields = {f"{m.__name__}.{name}" for m in models for name in m.model_fields}
    assert fields == set(CHECKS)


def test_clause_10_every_config_field_is_described() -> None:
    from foldcore_pgd import PGDConfig

    for model in (fc.FoldConfig, fc.FixedPointConfig, fc.KKTConfig, PGDConfig, IterateConfig):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


# 11


def test_clause_11_a_broken_plugin_neither_breaks_nor_vanishes(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[foldcore.solvers]\nbroken = broken_module:S\n")
    (tmp_path / "broken_module.py").write_text("raise OSError('no licence server')\n")
    script = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import torch, foldcore as fc
        assert "broken_module" not in sys.modules
        loaded = [m for m in sys.modules if m.startswith("foldcore_")]
        assert loaded == [], loaded
        from foldcore.registry import solvers
        assert "broken" in solvers.names()
        problem = fc.QuadraticProgram(P=torch.eye(2), q=fc.Param(2), lower=torch.zeros(2))
        layer = fc.build({{"problem": problem, "solver": "iterate", "rule": "pgd"}})
        layer(q=torch.ones(2))
        try:
            fc.build({{"problem": problem, "solver": "broken"}})
        except fc.PluginLoadError as error:
            assert "no licence server" in str(error), error
        else:
            raise SystemExit("no error")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
