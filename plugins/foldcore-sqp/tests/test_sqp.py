"""The SQP rule: at rest at solutions, Φ = (1-α)I, honest about what it cannot solve."""

from __future__ import annotations

import contextlib
import pickle
import re
from pathlib import Path

import pytest
import torch
from foldcore_sqp import ScaledIdentity, SQPConfig, SQPRule
from foldcore_sqp.convexify import convexify
from foldcore_sqp.multipliers import best_multipliers
from foldcore_sqp.subproblem import without_failed
from torch import Tensor

import foldcore as fc
from foldcore.kkt import Held
from foldcore.testing.problems import random_qp

pytest.importorskip("foldcore_osqp", reason="the inner fold is solved by foldcore-osqp")
pytest.importorskip("foldcore_newton", reason="the inner fold uses foldcore-newton")
pytest.importorskip("foldcore_direct", reason="the inner fold uses foldcore-direct")
pytest.importorskip("foldcore_lfpi", reason="the adjoint is foldcore-lfpi")

INNER = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
N = 8


def disc() -> fc.Problem:
    """min cᵀx on ‖x‖² <= r, Σx = s: no curvature but the constraint's."""
    return fc.Problem(
        N,
        lambda x, c: c @ x,
        {"c": fc.Param(N), "r": fc.Param(), "s": fc.Param()},
        equality=lambda x, s: (x.sum() - s).reshape(1),
        inequality=lambda x, r: ((x**2).sum() - r).reshape(1),
    )


def disc_values(batch: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "c": torch.randn(batch, N, generator=generator, dtype=torch.float64),
        "r": torch.linspace(1, 2, batch, dtype=torch.float64),
        "s": torch.linspace(0.2, 0.7, batch, dtype=torch.float64),
    }


def bound_disc(values: dict[str, Tensor]) -> fc.SmoothProgram:
    problem = disc()
    return problem.bind({**problem.constants, **values}, len(values["r"]))


def solve_disc(program: fc.SmoothProgram) -> Tensor:
    c, r, s = (program.params[name] for name in ("c", "r", "s"))
    mean = s[:, None] / N
    downhill = c.mean(-1, keepdim=True) - c
    length = (r[:, None] - N * mean**2).sqrt()
    return mean + length * downhill / downhill.norm(dim=-1, keepdim=True)


def saddle() -> fc.QuadraticProgram:
    return fc.QuadraticProgram(
        P=fc.Param(2, 2), q=fc.Param(2),
        A=torch.tensor([[1.0, 0.0]], dtype=torch.float64), b=torch.zeros(1, dtype=torch.float64),
    )  # fmt: skip


def origin(program: fc.SmoothProgram) -> Tensor:
    return torch.zeros(program.batch, program.n, dtype=torch.float64)


def build(problem: fc.ParametricProblem, solver: object, **rule: object) -> fc.Fold:
    more = rule.pop("more", {})
    return fc.build(
        {"problem": problem, "solver": solver, "rule": {"kind": "sqp", "inner": INNER, **rule},
         "adjoint": "lfpi", **more}
    )  # fmt: skip


def bound_at_solution(**options: object) -> tuple[fc.BoundRule, Tensor]:
    layer = build(disc(), solve_disc, **options)
    values = disc_values()
    program = bound_disc(values)
    bound = layer.rule.bind(program, layer.inner)
    state = bound.lift(fc.Solution(solve_disc(program), (fc.Status.OPTIMAL,) * 4))
    return bound.at(state), state


def measured_jacobian(bound: fc.BoundRule, state: Tensor) -> Tensor:
    """Return Φ (B, s, s) by autograd, row by row."""
    leaf = state.clone().requires_grad_()
    updated = bound.step(leaf)
    rows = [
        torch.autograd.grad(updated[:, i].sum(), leaf, retain_graph=True)[0]
        for i in range(state.shape[1])
    ]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("dual_state", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_measured_jacobian_is_the_scaled_identity(alpha: float, dual_state: bool) -> None:
    bound, state = bound_at_solution(step_size=alpha, dual_state=dual_state)
    assert bound.residual(state, bound.step(state)).max() < 1e-10
    eye = torch.eye(state.shape[1], dtype=torch.float64)
    assert (measured_jacobian(bound, state) - (1 - alpha) * eye).abs().max() < 1e-8
    claimed = bound.jacobian(state)
    if dual_state:
        assert claimed is None
    else:
        assert claimed is not None
        assert torch.equal(claimed.dense()[0], (1 - alpha) * eye)
        assert claimed.zero == (alpha == 1)


def test_measured_jacobian_vanishes_on_random_qps_with_bounds() -> None:
    data = random_qp(2, 10, n_equality=2, n_inequality=4, batch=6)
    problem = fc.QuadraticProgram(
        **{k: fc.Param(*v.shape[1:], psd=k == "P") for k, v in data.items()}
    )
    for dual_state in (False, True):
        layer = build(problem, "osqp", dual_state=dual_state)
        solution = layer.solve(**data)
        bound = layer.rule.bind(problem.bind(data, 6), layer.inner)
        state = bound.lift(solution)
        assert measured_jacobian(bound, state).abs().max() < 1e-8


def test_convexified_steps_leave_multipliers_where_they_are() -> None:
    """The linear term goes with the quadratic one: without it ∂λ⁺/∂x would be σ(JJᵀ)⁻¹J, not 0."""
    layer = build(saddle(), fc.CallableSolver(origin), dual_state=True)
    P = torch.tensor([[[-1.0, 0.5], [0.5, 1.0]]], dtype=torch.float64)
    q = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    program = saddle().bind({**saddle().constants, "P": P, "q": q}, 1)
    bound = layer.rule.bind(program, layer.inner)
    state = bound.lift(fc.Solution(origin(program), (fc.Status.OPTIMAL,)))
    assert torch.allclose(bound.step(state), state, atol=1e-12)
    assert measured_jacobian(bound, state).abs().max() < 1e-9


class _Counting(fc.AdjointSolver):
    """Counts products with Φᵀ that the wrapped solver asks for."""

    api_version = 1
    config_class = fc.PluginConfig

    def __init__(self, inner: fc.AdjointSolver) -> None:
        self.config = inner.config
        self.inner, self.products, self.counted = inner, 0, 0

    def solve(self, operator: fc.FixedPointOperator, cotangent: Tensor) -> fc.AdjointSolution:
        original = operator.vjp

        def vjp(given: Tensor) -> Tensor:
            self.products += 1
            return original(given)

        operator.vjp = vjp  # type: ignore[method-assign]
        answer = self.inner.solve(operator, cotangent)
        self.counted = int(answer.iterations.max())
        return answer


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0),
        ({"dual_state": True}, 1),
        ({"step_size": 0.5}, None),
    ],
)
def test_number_of_adjoint_products(options: dict[str, object], expected: int | None) -> None:
    """Why: Φ = 0 under LICQ, strict complementarity, second-order sufficiency and an exact Hessian.

    All four hold for the disc. With the state x the rule declares Φ = 0, and v = g needs no
    product. With (x, λ) it declares nothing: one product shows that g - (I - Φᵀ)g = Φᵀg is 0. A
    step of ½ leaves Φ = ½I, so that the iteration halves its error: to 1e-8 in 27 products.
    """
    layer = build(disc(), solve_disc, **options)
    counting = _Counting(layer.adjoint)
    layer.adjoint = counting
    params = {k: v.requires_grad_() for k, v in disc_values().items()}
    layer(**params).pow(3).sum().backward()
    assert counting.products == counting.counted
    if expected is None:
        assert 25 <= counting.products <= 29
    else:
        assert counting.products == expected


def test_scaled_identity_keeps_its_invariants() -> None:
    state = torch.zeros(3, 4, dtype=torch.float64)
    operator = ScaledIdentity(state, 0.7)
    g = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    v = operator.solve_transposed(g)
    assert torch.allclose(v - operator.vjp(v), g, rtol=1e-14)
    assert torch.equal(operator.jvp(g), operator.vjp(g))
    assert torch.allclose(g @ operator.dense()[0], operator.vjp(g))
    assert operator.symmetric
    assert not operator.zero


@pytest.mark.parametrize("dual_state", [False, True])
def test_duals_are_differentiable_and_right(dual_state: bool) -> None:
    """The disc's multiplier is ‖downhill‖ / (2 length), a closed form to differentiate."""
    params = {k: v.requires_grad_() for k, v in disc_values().items()}
    solution = build(disc(), solve_disc, dual_state=dual_state).solve(**params)
    mu = solution.duals.inequality[:, 0]
    downhill = params["c"].mean(-1, keepdim=True) - params["c"]
    expected = downhill.norm(dim=-1) / 2 / (params["r"] - params["s"] ** 2 / N).sqrt()
    assert torch.allclose(mu, expected, rtol=1e-9)
    given = torch.autograd.grad(mu.sum(), list(params.values()), retain_graph=True)
    wanted = torch.autograd.grad(expected.sum(), list(params.values()))
    for one, other in zip(given, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-9)


def test_polish_brings_a_rough_solution_to_rounding() -> None:
    def rough(program: fc.SmoothProgram) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        x = solve_disc(program)
        return x + 1e-4 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    values = disc_values()
    exact = solve_disc(bound_disc(values))
    errors = {}
    for steps in (0, 1, 2):
        more = {"fixed_point": {"polish": steps}, "kkt": {"on_violation": "ignore"}}
        solution = build(disc(), rough, more=more).solve(**values)
        errors[steps] = float((solution.primal - exact).abs().max())
    assert errors[0] > 1e-5
    assert errors[1] < 1e-6
    assert errors[2] < 1e-10


def test_gradient_of_a_polished_solution_uses_multipliers_of_the_polished_point() -> None:
    """The rough point's multipliers are 1e-4 off, and a Hessian made of them with it the gradient."""

    def rough(program: fc.SmoothProgram) -> Tensor:
        x = solve_disc(program)
        return x + 1e-4 * torch.linspace(-1, 1, N, dtype=x.dtype).cos()

    more = {"fixed_point": {"polish": 3}, "kkt": {"on_violation": "ignore"}}
    layer = build(disc(), rough, more=more)
    given = {k: v.requires_grad_() for k, v in disc_values().items()}
    layer(**given).pow(3).sum().backward()
    wanted = {k: v.requires_grad_() for k, v in disc_values().items()}
    solve_disc(bound_disc(wanted)).pow(3).sum().backward()
    for name, value in given.items():
        assert torch.allclose(value.grad, wanted[name].grad, rtol=1e-9, atol=1e-9), name


FORCE, AREA = 0.05, 1e-5
"""Units of a portfolio: prices of 0.05 and variances of 1e-5, so that multipliers are of size 1e4."""


def small_disc() -> fc.Problem:
    return fc.Problem(
        N,
        lambda x, c: FORCE * (c @ x),
        {"c": fc.Param(N), "r": fc.Param(), "s": fc.Param()},
        equality=lambda x, s: (x.sum() - s).reshape(1),
        inequality=lambda x, r: (AREA * ((x**2).sum() - r)).reshape(1),
    )


def disc_duals(program: fc.SmoothProgram) -> fc.Duals:
    """Of :func:`small_disc`, in closed form."""
    c, r, s = (program.params[name] for name in ("c", "r", "s"))
    downhill = c.mean(-1, keepdim=True) - c
    curved = FORCE / AREA * downhill.norm(dim=-1) / 2 / (r - s**2 / N).sqrt()
    level = -FORCE * c.mean(-1) - 2 * AREA * curved * s / N
    none = torch.zeros_like(c)
    return fc.Duals(level[:, None], curved[:, None], none, none)


@pytest.mark.parametrize("error", [1e-9, 1e-5])
def test_polishing_refines_multipliers_in_small_units(error: float) -> None:
    """A solver's multipliers wrong by 1e-7 relative look exact beside 1; the gradient shows them."""

    def rough(program: fc.SmoothProgram) -> fc.Solution:
        x = solve_disc(program) + error * torch.linspace(-1, 1, N, dtype=torch.float64).cos()
        duals = disc_duals(program)
        duals = duals.map(lambda v: v * (1 + 100 * error))
        return fc.Solution(x, (fc.Status.OPTIMAL,) * len(x), duals=duals)

    inner = {**INNER, "fixed_point": {"polish": 1}}
    layer = build(small_disc(), rough, inner=inner, more={"fixed_point": {"polish": 2}})
    given = {k: v.requires_grad_() for k, v in disc_values().items()}
    layer(**given).pow(3).sum().backward()
    wanted = {k: v.requires_grad_() for k, v in disc_values().items()}
    solve_disc(bound_disc(wanted)).pow(3).sum().backward()
    for name, value in given.items():
        assert torch.allclose(value.grad, wanted[name].grad, rtol=1e-11, atol=1e-12), name


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_the_best_multipliers_do_not_depend_on_units(unit: float) -> None:
    """Those of a solver, off by 1e-6 relative, are replaced whatever the units of f and g."""

    def scaled(scale: float) -> tuple[fc.SmoothProgram, fc.Duals]:
        problem = fc.Problem(
            N,
            lambda x, c: scale * (c @ x),
            {"c": fc.Param(N), "r": fc.Param(), "s": fc.Param()},
            equality=lambda x, s: (x.sum() - s).reshape(1),
            inequality=lambda x, r: ((x**2).sum() - r).reshape(1),
        )
        program = problem.bind({**problem.constants, **disc_values()}, 4)
        exact = disc_duals(program)
        level = scale * exact.equality / FORCE
        return program, fc.Duals(
            level, scale * exact.inequality * AREA / FORCE, exact.lower, exact.upper
        )

    program, exact = scaled(unit)
    given = fc.Duals(exact.equality, exact.inequality * (1 + 1e-6), exact.lower, exact.upper)
    found = best_multipliers(program, solve_disc(program), given)
    assert torch.allclose(found.inequality, exact.inequality, rtol=1e-12, atol=0)
    # What is exact stays, to the bit.
    kept = best_multipliers(program, solve_disc(program), exact)
    assert torch.equal(kept.inequality, exact.inequality)


def test_a_state_with_multipliers_needs_few_products_and_one_after_polishing() -> None:
    def rough(program: fc.SmoothProgram) -> Tensor:
        return solve_disc(program) + 1e-4 * torch.linspace(-1, 1, N, dtype=torch.float64).cos()

    products = {}
    for steps in (0, 3):
        more = {"fixed_point": {"polish": steps}, "kkt": {"on_violation": "ignore"}}
        layer = build(disc(), rough, dual_state=True, more=more)
        reports: list[fc.AdjointSolution] = []
        solve = layer.adjoint.solve
        layer.adjoint.solve = lambda operator, cotangent, solve=solve, reports=reports: (
            reports.append(solve(operator, cotangent)) or reports[-1]
        )
        given = {k: v.requires_grad_() for k, v in disc_values().items()}
        quiet = pytest.warns(fc.CertificateWarning) if not steps else contextlib.nullcontext()
        with quiet:
            x = layer(**given)
        x.pow(3).sum().backward()
        products[steps] = int(reports[0].iterations.max())
    assert 2 <= products[0] <= 4
    assert products[3] == 1


def test_batch_equals_singles() -> None:
    values = disc_values()
    layer = build(disc(), solve_disc)

    def run(given: dict[str, Tensor]) -> list[Tensor]:
        params = {k: v.clone().requires_grad_() for k, v in given.items()}
        x = layer(**params)
        x.pow(3).sum().backward()
        return [x.detach(), *(v.grad for v in params.values())]

    together = run(values)
    for i in range(4):
        alone = run({k: v[i : i + 1] for k, v in values.items()})
        for one, many in zip(alone, together, strict=True):
            assert torch.allclose(one[0], many[i], rtol=1e-12, atol=1e-12)


def test_missing_second_order_sufficiency_fails_that_sample_alone() -> None:
    """x₁ = 0 is fixed, so P₂₂ decides: positive is a minimum, 0 and negative are not."""
    P = torch.tensor([[-1.0, 0.5], [0.5, 1.0]], dtype=torch.float64).repeat(4, 1, 1)
    P[1, 1, 1], P[3, 1, 1] = -1.0, 0.0
    P[3, 0, 1] = P[3, 1, 0] = 0.0
    q = torch.zeros(4, 2, dtype=torch.float64)
    q[:, 0] = 1.0

    solver = fc.CallableSolver(origin)
    layer = build(saddle(), solver, more={"on_failure": "mask"})

    def run(P: Tensor, q: Tensor) -> tuple[fc.Solution, Tensor, Tensor]:
        P, q = P.clone().requires_grad_(), q.clone().requires_grad_()
        solution = layer.solve(P=P, q=q)
        torch.nan_to_num(solution.primal).sum().backward()
        return solution, P.grad, q.grad

    with pytest.warns(fc.SolveWarning, match="singular update step"):
        solution, P_grad, q_grad = run(P, q)
    assert solution.failed == (1, 3)
    assert all(solution.status[i] is fc.Status.NUMERICAL for i in (1, 3))
    assert torch.equal(P_grad[[1, 3]], torch.zeros(2, 2, 2, dtype=torch.float64))
    assert torch.equal(q_grad[[1, 3]], torch.zeros(2, 2, dtype=torch.float64))
    assert torch.allclose(q_grad[0], torch.tensor([0.0, -1.0], dtype=torch.float64))
    P[1], P[3] = P[0], P[0]
    _, P_clean, q_clean = run(P, q)
    assert torch.equal(P_grad[[0, 2]], P_clean[[0, 2]])
    assert torch.equal(q_grad[[0, 2]], q_clean[[0, 2]])


def test_lp_without_a_unique_solution_is_reported() -> None:
    problem = fc.QuadraticProgram(
        q=fc.Param(3), A=torch.ones(1, 3, dtype=torch.float64),
        b=torch.ones(1, dtype=torch.float64), lower=0.0,
    )  # fmt: skip
    answer = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    layer = build(problem, lambda program: answer)
    q = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(fc.SolveError, match="singular update step"):
        layer(q=q)


def test_a_multiplier_left_on_an_inactive_row_is_no_curvature() -> None:
    """An interior-point solver leaves 1e-9 there; it would pass a singular Hessian for definite."""
    problem = fc.QuadraticProgram(
        q=fc.Param(3), A=torch.ones(1, 3, dtype=torch.float64),
        b=torch.ones(1, dtype=torch.float64), lower=0.0,
        quadratic_P=torch.eye(3, dtype=torch.float64)[None],
        quadratic_q=torch.zeros(1, 3, dtype=torch.float64),
        quadratic_r=torch.full((1,), 9.0, dtype=torch.float64),
    )  # fmt: skip

    def noisy(program: fc.SmoothProgram) -> fc.Solution:
        x = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
        lower = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
        noise = torch.full((1, 1), 1e-9, dtype=torch.float64)
        duals = fc.Duals(-torch.ones(1, 1, dtype=torch.float64), noise, lower, 0 * lower)
        return fc.Solution(x, (fc.Status.OPTIMAL,), duals)

    q = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(fc.SolveError, match="singular update step"):
        build(problem, fc.CallableSolver(noisy))(q=q)


def test_data_of_failed_samples_are_solved_by_no_step() -> None:
    values = {
        "P": torch.eye(2).repeat(2, 1, 1), "q": torch.ones(2, 2), "A": torch.ones(1, 2),
        "b": torch.ones(2, 1), "G": torch.ones(1, 2), "h": -torch.ones(2, 1),
        "lower": torch.ones(2, 2), "upper": torch.ones(2, 2),
    }  # fmt: skip
    mended = without_failed(values, torch.tensor([True, False]))
    for name in ("q", "b"):
        assert mended[name][0].abs().max() == 0
    assert torch.isposinf(mended["h"][0]).all()
    assert torch.isneginf(mended["lower"][0]).all()
    assert torch.isposinf(mended["upper"][0]).all()
    for name in ("q", "b", "h", "lower", "upper"):
        assert torch.equal(mended[name][1], values[name][1])


def test_inner_failure_fails_that_sample_alone() -> None:
    def partly(program: fc.SmoothProgram) -> fc.Solution:
        x = torch.zeros(program.batch, N, dtype=torch.float64)
        status = [fc.Status.OPTIMAL] * program.batch
        if program.batch > 2:
            status[2] = fc.Status.TIME_LIMIT
        return fc.Solution(x, tuple(status))

    inner = {**INNER, "solver": partly}
    layer = build(disc(), solve_disc, inner=inner, more={"on_failure": "mask"})
    params = {k: v.requires_grad_() for k, v in disc_values().items()}
    with pytest.warns(fc.SolveWarning, match="time_limit"):
        solution = layer.solve(**params)
    assert solution.failed == (2,)
    assert solution.status[2] is fc.Status.INNER_FAILURE
    solution.primal[[0, 1, 3]].pow(3).sum().backward()
    clean = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
    build(disc(), solve_disc)(**clean)[[0, 1, 3]].pow(3).sum().backward()
    for name, value in params.items():
        assert torch.allclose(value.grad, clean[name].grad, rtol=1e-9, atol=1e-12), name


def test_convexified_hessian_is_definite_and_leaves_definite_samples_alone() -> None:
    problem = fc.QuadraticProgram(
        P=fc.Param(3, 3), q=torch.ones(3, dtype=torch.float64), A=fc.Param(1, 3),
        b=torch.zeros(1, dtype=torch.float64),
    )  # fmt: skip
    P = torch.diag_embed(
        torch.tensor([[-5.0, 1.0, 2.0], [1.0, 2.0, 3.0], [0.0, 1e-3, 1e3]], dtype=torch.float64)
    )
    A = torch.tensor([[1e-3, 0.0, 0.0]], dtype=torch.float64).repeat(3, 1, 1)
    program = problem.bind({**problem.constants, "P": P, "A": A}, 3)
    x = torch.zeros(3, 3, dtype=torch.float64)
    none = torch.zeros(3, 3, dtype=torch.bool)
    active = Held(none[:, :0], none, none)
    found = convexify(program, x, P, active)
    assert bool(fc.is_positive_definite(found.hessian).all())
    assert torch.equal(found.hessian[1], P[1])
    assert not bool(found.failed.any())
    change = found.hessian - P
    assert change[0, 0, 0] > 5
    change[:, 0, 0] = 0
    assert change.abs().max() < 1e-12, "only the constrained direction may change"
    assert float(found.hessian[2, 0, 0]) < 1e-2, "no more than the null space needs"


@pytest.mark.parametrize("mode", ["fixed_point_unfold", "unfold"])
@pytest.mark.parametrize("dual_state", [False, True])
def test_modes_agree_on_a_converged_problem(mode: str, dual_state: bool) -> None:
    """SQP converges quadratically near a solution, and so do the derivatives of its iterates."""
    values = disc_values()
    exact = solve_disc(bound_disc(values))
    grads = []
    for more in ({}, {"mode": mode, "iterations": 4}):
        params = {k: v.clone().requires_grad_() for k, v in values.items()}
        layer = build(disc(), solve_disc, dual_state=dual_state, more=more)
        start = {}
        if more.get("mode") == "unfold":
            # Strictly inside: what is active has to be told from slacks of 1e-4.
            inside = 0.9999 * exact + 0.0001 * values["s"][:, None] / N
            start["warm_start"] = fc.Solution(inside, (fc.Status.OPTIMAL,) * 4)
        layer(**params, **start).pow(3).sum().backward()
        grads.append(params)
    for name in values:
        one, other = (params[name].grad for params in grads)
        assert (one - other).abs().max() <= 1e-8 * (1 + one.abs().max()), name


def test_atoms_bring_their_rows_and_bounds() -> None:
    problem = fc.Problem(
        N,
        lambda x, c: ((x - c) ** 2).sum(),
        {"c": fc.Param(N)},
        constraints=[fc.CappedSimplex(2.5)],
    )
    c = disc_values()["c"]
    answers = []
    for rule in ("newton", {"kind": "sqp", "inner": INNER}):
        leaf = c.clone().requires_grad_()
        layer = fc.build({"problem": problem, "solver": "osqp", "rule": rule, "adjoint": "lfpi"})
        layer(c=leaf).pow(3).sum().backward()
        answers.append(leaf.grad)
    assert (answers[0] - answers[1]).abs().max() < 1e-9


def test_infinite_and_coinciding_bounds() -> None:
    inf = float("inf")
    lower = torch.tensor([-inf, 0.3, 0.0], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([inf, 0.3, inf], dtype=torch.float64, requires_grad=True)
    problem = fc.QuadraticProgram(
        P=torch.eye(3, dtype=torch.float64), q=fc.Param(3), lower=fc.Param(3), upper=fc.Param(3)
    )

    def clip(program: fc.SmoothProgram) -> Tensor:
        data = program.data
        return torch.minimum(torch.maximum(-data.q, data.lower), data.upper).reshape(1, 3)

    q = torch.ones(3, dtype=torch.float64, requires_grad=True)
    build(problem, clip)(q=q, lower=lower, upper=upper).sum().backward()
    assert torch.allclose(q.grad, torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64))
    assert torch.allclose(lower.grad, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    assert torch.equal(upper.grad, torch.zeros(3, dtype=torch.float64))


def test_zero_cotangent_gives_exactly_zero() -> None:
    params = {k: v.requires_grad_() for k, v in disc_values().items()}
    (0 * build(disc(), solve_disc)(**params)).sum().backward()
    for value in params.values():
        assert torch.equal(value.grad, torch.zeros_like(value))


def test_unsuitable_problems_and_options_are_refused() -> None:
    ball = fc.Problem(2, lambda x, c: ((x - c) ** 2).sum(), {"c": fc.Param(2)},
                      constraints=[fc.L1Ball(1.0)])  # fmt: skip
    with pytest.raises(fc.ConfigError, match="L1Ball"):
        build(ball, lambda program: None)
    lasso = fc.Problem(2, lambda x, c: ((x - c) ** 2).sum(), {"c": fc.Param(2)},
                       regularizers=[fc.L1(0.1)])  # fmt: skip
    with pytest.raises(fc.ConfigError, match="nonsmooth"):
        build(lasso, lambda program: None)
    with pytest.raises(fc.ConfigError, match="iterating SQPRule"):
        build(disc(), "iterate")
    for step_size in (0.0, 1.5):
        with pytest.raises(fc.ConfigError, match=r"rule\.step_size"):
            build(disc(), solve_disc, step_size=step_size)


def test_rule_is_picklable_and_ranked() -> None:
    rule = pickle.loads(pickle.dumps(SQPRule(SQPConfig(step_size=0.5))))
    assert rule.config.step_size == 0.5
    assert SQPRule.rank(disc().structure) == 3
    assert not rule.converges(disc().structure)


def test_readme_snippets_run() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


def test_readme_lists_every_option() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    for name in SQPConfig.model_fields:
        assert f"| `{name}` |" in text, name
