"""Gurobi under folding: a nonconvex bilinear problem, and the portfolio in its natural units."""

from __future__ import annotations

import itertools

import pytest
import torch
from foldcore_gurobi import GurobiConfig, GurobiSolver
from torch import Tensor

import foldcore as fc

REASON = GurobiSolver.unusable_reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"gurobi: {REASON}")
pytest.importorskip("foldcore_newton", reason="needs foldcore-newton")
pytest.importorskip("foldcore_direct", reason="needs foldcore-direct")

F64 = torch.float64


def central_difference(layer: fc.Fold, name: str, values: dict[str, Tensor], weights: Tensor):
    """Return the slope of weights·x along a fixed direction, and that direction."""
    step, size = 1e-5, values[name].shape[-1]
    direction = torch.linspace(-1, 2, size, dtype=F64)
    ends = [
        (layer(**{**values, name: values[name] + sign * step * direction}) @ weights).sum()
        for sign in (1, -1)
    ]
    return float(ends[0] - ends[1]) / (2 * step), direction


# ---- min xᵀQy + cᵀx + dᵀy over a simplex and a box


def bilinear(seed: int, smoothing: float) -> tuple[fc.QuadraticProgram, dict[str, Tensor]]:
    """Return the bilinear problem with ``smoothing``/2 ‖(x, y)‖² added; 0 leaves its vertices."""
    n = m = 5
    generator = torch.Generator().manual_seed(seed)
    Q = torch.randn(n, m, generator=generator, dtype=F64)
    P = smoothing * torch.eye(n + m, dtype=F64)
    P[:n, n:], P[n:, :n] = Q, Q.T
    sums = torch.cat([torch.ones(1, n, dtype=F64), torch.zeros(1, m, dtype=F64)], 1)
    problem = fc.QuadraticProgram(
        P=P, q=fc.Param(n + m), A=sums, b=fc.Param(1), lower=0.0, upper=fc.Param(n + m)
    )
    values = {
        "q": 0.3 * torch.randn(n + m, generator=generator, dtype=F64),
        "b": torch.ones(1, dtype=F64),
        "upper": torch.cat([torch.full((n,), 0.8), torch.full((m,), 1.0)]).to(F64),
    }
    return problem, values


def best_vertex_value(problem: fc.QuadraticProgram, values: dict[str, Tensor]) -> float:
    """Return the optimum of the bilinear problem by trying all vertices of simplex and box."""
    program = problem.bind({**problem.constants, **values}, 1)
    upper = values["upper"]
    points = []
    for i, j in itertools.permutations(range(5), 2):
        x = torch.zeros(5, dtype=F64)
        x[i], x[j] = upper[i], 1 - upper[i]
        points += [
            torch.cat([x, torch.tensor(y, dtype=F64)]) for y in itertools.product((0, 1), repeat=5)
        ]
    stacked = torch.stack(points)
    data = program.quadratic
    return float(((stacked @ data.P * stacked).sum(-1) / 2 + stacked @ data.q).min())


@pytest.mark.parametrize("seed", range(3))
def test_the_bilinear_optimum_is_global(seed):
    problem, values = bilinear(seed, 0.0)
    assert problem.structure.problem_class is fc.ProblemClass.NONCONVEX_QP
    layer = fc.build({"problem": problem, "solver": "gurobi", "rule": "newton"})
    solution = layer.solve(**values)
    program = problem.bind({**problem.constants, **values}, 1)
    value = float(program.objective(solution.primal.reshape(1, -1)))
    assert value == pytest.approx(best_vertex_value(problem, values), abs=1e-9)
    assert float(solution.kkt.residual) < 1e-8


def rules() -> list[object]:
    pgd = {"kind": "pgd", "projection": "inner"}
    return ["newton", pgd, "sqp"]


@pytest.mark.parametrize("rule", rules(), ids=["newton", "pgd", "sqp"])
@pytest.mark.parametrize(
    ("smoothing", "names"), [(0.0, ["b", "upper"]), (0.5, ["q", "b", "upper"])]
)
def test_bilinear_gradients_agree_with_central_differences(rule, smoothing, names):
    kind = rule if isinstance(rule, str) else rule["kind"]
    pytest.importorskip(f"foldcore_{kind}", reason=f"needs foldcore-{kind}")
    if kind != "newton":
        pytest.importorskip("foldcore_osqp", reason="needs foldcore-osqp")
        inner = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
        rule = {**({"kind": rule} if isinstance(rule, str) else rule), "inner": inner}
    problem, values = bilinear(1, smoothing)
    config = {"problem": problem, "solver": "gurobi", "rule": rule, "adjoint": "direct"}
    # The search leaves 1e-6, which Newton's steps square and projected gradient steps shrink.
    config["fixed_point"] = {"polish": 200 if kind == "pgd" else 2}
    layer = fc.build(config)
    weights = torch.linspace(-1, 1.5, 10, dtype=F64)
    inputs = {k: v.clone().requires_grad_() for k, v in values.items()}
    (layer(**inputs) @ weights).sum().backward()
    exact = fc.build(
        {**config, "rule": "newton", "fixed_point": {"polish": 2}}
    )  # for differences at the accuracy of rounding
    for name in names:
        slope, direction = central_difference(exact, name, values, weights)
        assert float(inputs[name].grad @ direction) == pytest.approx(slope, rel=1e-6, abs=1e-7)
        assert abs(slope) > 1e-2


# ---- max cᵀx s.t. xᵀVx <= γ, 1ᵀx = 1, x >= 0, in daily returns: c is of size 1e-3, V of 1e-3


def portfolio(seed: int) -> tuple[fc.QuadraticProgram, Tensor]:
    n = 20
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(n, 5, generator=generator, dtype=F64)
    own = 0.5 + torch.rand(n, generator=generator, dtype=F64)
    V = 4e-4 * (factors @ factors.T + torch.diag(own))
    c = 2e-3 * torch.randn(n, generator=generator, dtype=F64) + 5e-4
    problem = fc.QuadraticProgram(
        q=fc.Param(n),
        A=torch.ones(1, n, dtype=F64),
        b=torch.ones(1, dtype=F64),
        lower=0.0,
        quadratic_P=2 * V[None],
        quadratic_q=torch.zeros(1, n, dtype=F64),
        quadratic_r=1.5 * V.mean()[None],
    )
    return problem, -c


VENDOR = {"kind": "gurobi", "rtol": 1e-6, "atol": 1e-6}
"""Gurobi's own default tolerances."""


OWN = {"kind": "gurobi"}


@fc.solver
def rough(program: fc.SmoothProgram) -> Tensor:
    """Gurobi's answers at foldcore's tolerances, with a planted error of 1e-3."""
    session = GurobiSolver(GurobiConfig()).open(program.structure)
    x = session.solve(program, changed=frozenset({"q"})).primal
    generator = torch.Generator().manual_seed(0)
    error = 1e-3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return torch.where(x > 1e-6, x + error - error.mean(-1, keepdim=True), x)


def portfolio_layer(problem: object, solver: object, rule: object, polish: int) -> fc.Fold:
    quiet = {"on_violation": "ignore"}
    return fc.build(
        {
            "problem": problem,
            "solver": solver,
            "rule": rule,
            "adjoint": "direct",
            "fixed_point": {"polish": polish, **quiet},
            "kkt": quiet,
        }
    )


WEIGHTS = torch.linspace(-1, 1, 20, dtype=F64)


def solved(layer: fc.Fold, q: Tensor) -> tuple[float, Tensor]:
    """Return the KKT residual and the gradient of WEIGHTS·x."""
    given = q.clone().requires_grad_()
    solution = layer.solve(q=given)
    (solution.primal @ WEIGHTS).sum().backward()
    return float(solution.kkt.residual), given.grad


def measured(solver: object, rule: object, polish: int) -> tuple[Tensor, Tensor]:
    """Return the KKT residual and the gradient's relative error of ten portfolios."""
    residuals, errors = [], []
    for seed in range(10):
        problem, q = portfolio(seed)
        exact_residual, exact = solved(portfolio_layer(problem, OWN, "newton", 6), q)
        assert exact_residual < 1e-12
        residual, gradient = solved(portfolio_layer(problem, solver, rule, polish), q)
        residuals.append(residual)
        errors.append(float((gradient - exact).abs().max() / exact.abs().max().clamp(min=1)))
    return torch.tensor(residuals), torch.tensor(errors)


def test_the_polished_gradient_agrees_with_central_differences():
    problem, q = portfolio(0)
    layer = portfolio_layer(problem, OWN, "newton", 6)
    gradient, step = solved(layer, q)[1], 1e-7
    direction = torch.linspace(-1, 2, 20, dtype=F64)
    ends = [float(layer(q=q + sign * step * direction) @ WEIGHTS) for sign in (1, -1)]
    assert float(gradient @ direction) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def polishing_rules() -> list[object]:
    inner = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
    return ["newton", {"kind": "sqp", "inner": inner}]


@pytest.mark.parametrize("rule", polishing_rules(), ids=["newton", "sqp"])
def test_polishing_turns_a_rough_portfolio_into_an_exact_one(rule):
    if isinstance(rule, dict):
        pytest.importorskip("foldcore_sqp", reason="needs foldcore-sqp")
        pytest.importorskip("foldcore_osqp", reason="needs foldcore-osqp")
    for solver in (rough, VENDOR):
        residual, error = measured(solver, rule, 2)
        assert float(residual.median()) <= 1e-10
    assert float(error.median()) <= 1e-7
    residual, error = measured(VENDOR, rule, 4)
    assert float(residual.max()) <= 1e-10
    assert float(error.max()) <= 1e-8
    # At foldcore's tolerances two steps are enough for all.
    residual, error = measured(OWN, rule, 2)
    assert float(residual.max()) <= 1e-12
    assert float(error.max()) <= (1e-8 if rule == "newton" else 1e-5)
