"""Gradients through folded SQP against implicit KKT gradients and central differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from foldcore_sqp import SQPConfig, SQPRule
from numpy.typing import NDArray
from scipy.optimize import NonlinearConstraint, minimize
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import random_qp
from foldcore.testing.reference import QPReference

pytest.importorskip("foldcore_osqp", reason="the inner fold is solved by foldcore-osqp")
pytest.importorskip("foldcore_newton", reason="the inner fold uses foldcore-newton")
pytest.importorskip("foldcore_direct", reason="the inner fold uses foldcore-direct")
pytest.importorskip("foldcore_lfpi", reason="the adjoint is foldcore-lfpi")

OSQP = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
QPTH = {"solver": "qpth"}
ADMM = {"solver": "osqp", "rule": "admm", "adjoint": "direct"}
# qpth takes slacks and multipliers below 1e-8 for 1e-8, which costs its derivative half the digits.
INNER = [
    pytest.param(OSQP, 1e-6, id="osqp"),
    pytest.param(QPTH, 1e-4, id="qpth"),
    pytest.param(ADMM, 1e-6, id="admm"),
]
STEP = 1e-5


def slsqp(problem: fc.ParametricProblem, values: dict[str, Tensor], batch: int) -> Tensor:
    """Find local optima sample by sample; a black box that knows nothing of foldcore's rules."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(batch):
        one = {k: v[i : i + 1] for k, v in values.items()}
        program = problem.bind({**problem.constants, **one}, 1)
        rows.append(torch.from_numpy(_slsqp_one(program, generator.normal(size=problem.n) / 2)))
    return torch.stack(rows)


def _slsqp_one(program: fc.SmoothProgram, start: NDArray[np.float64]) -> NDArray[np.float64]:
    def at(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Callable[..., object]:
        return lambda x: function(torch.as_tensor(x)[None]).reshape(shape).numpy()

    n = program.n
    constraints = []
    for value, slope, count, floor in (
        (program.equality, program.equality_jacobian, program.n_equality, 0.0),
        (program.inequality, program.inequality_jacobian, program.n_inequality, -np.inf),
    ):
        if count:
            constraints.append(
                NonlinearConstraint(at(value, (count,)), floor, 0, jac=at(slope, (count, n)))
            )
    lower = np.full(n, -np.inf) if program.lower is None else program.lower.reshape(n).numpy()
    upper = np.full(n, np.inf) if program.upper is None else program.upper.reshape(n).numpy()
    answer = minimize(
        at(program.objective, ()), start, jac=at(program.gradient, (n,)),
        bounds=list(zip(lower, upper, strict=True)), constraints=constraints, method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )  # fmt: skip
    return answer.x


def require(inner: dict[str, str]) -> None:
    """Skip where a plugin of the inner fold is not installed."""
    for kind in inner.values():
        pytest.importorskip(f"foldcore_{kind}", reason=f"the inner fold uses foldcore-{kind}")


def build(problem: fc.ParametricProblem, solver: object, inner: object, **more: object) -> fc.Fold:
    rule = {"kind": "sqp", "inner": inner, **more.pop("rule", {})}
    config = {"problem": problem, "solver": solver, "rule": rule, "adjoint": "lfpi", **more}
    return fc.build(config)


def check_against_differences(
    problem: fc.ParametricProblem, values: dict[str, Tensor], inner: object, tolerance: float
) -> fc.Solution:
    """Compare with central differences of the polished solution, each parameter in one direction.

    The differences start from the black box's solution at the base point, so that they stay at
    the same local optimum. Returns the solution at the base point.
    """
    require(inner)
    batch = len(next(iter(values.values())))
    base = slsqp(problem, values, batch)
    polished = {
        "fixed_point": {"polish": 4, "on_violation": "ignore"},
        "kkt": {"on_violation": "ignore"},
    }
    params = {k: v.clone().requires_grad_() for k, v in values.items()}
    layer = build(problem, lambda program: base, inner, **polished)
    solution = layer.solve(**params)
    assert solution.kkt is not None
    assert solution.fixed_point_residual is not None
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(solution.primal.shape, generator=generator, dtype=torch.float64)
    (solution.primal * weights).sum().backward()
    near = build(problem, lambda program: base, OSQP, **polished)
    assert near.solve(**values).kkt.residual.max() < 1e-9
    for name, value in values.items():
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name.endswith("P"):
            direction = (direction + direction.mT) / (4 * value.shape[-1])
        ends = [near(**{**values, name: value + sign * STEP * direction}) for sign in (1.0, -1.0)]
        slope = ((ends[0] - ends[1]) / (2 * STEP) * weights).sum(-1)
        given = params[name].grad
        assert given is not None
        product = (given * direction).reshape(batch, -1).sum(-1)
        scale = slope.abs().maximum(weights.norm(dim=-1))
        error = ((product - slope).abs() / scale).max()
        assert error <= tolerance, (name, float(error))
    return solution


def free_directions(program: fc.SmoothProgram, solution: fc.Solution) -> Tensor:
    duals = solution.duals
    assert duals is not None
    active = sum((value > 1e-6).sum(-1) for value in (duals.inequality, duals.lower, duals.upper))
    return program.n - program.n_equality - active


@pytest.mark.parametrize(("inner", "tolerance"), INNER)
@pytest.mark.parametrize("options", [{}, {"step_size": 0.5}, {"dual_state": True}])
def test_qp_gradients_match_the_implicit_kkt_derivative(
    inner: dict[str, str], tolerance: float, options: dict[str, object]
) -> None:
    require(inner)
    data = random_qp(0, n=26, n_equality=2, n_inequality=6, batch=24)
    problem = fc.QuadraticProgram(
        **{k: fc.Param(*v.shape[1:], psd=k == "P") for k, v in data.items()}
    )
    layer = build(problem, "osqp", inner, rule=options)
    params = {k: v.clone().requires_grad_() for k, v in data.items()}
    x = layer(**params)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (x * cotangent).sum().backward()
    free = []
    for i in range(len(x)):
        one = {k: v[i].numpy() for k, v in data.items()}
        reference = QPReference.from_guess(one, x[i].detach().numpy())
        free.append(reference.free_directions)
        for name, value in reference.gradients(cotangent[i].numpy()).items():
            error = np.abs(params[name].grad[i].numpy() - value).max()
            assert error <= tolerance * max(np.linalg.norm(value), float(cotangent[i].norm())), name
    assert len(set(free)) > 3, "active sets should differ"
    assert sum(f >= 5 for f in free) >= 10, free


@pytest.mark.parametrize(("inner", "tolerance"), INNER)
def test_qcqp_gradients_match_central_differences(inner: dict[str, str], tolerance: float) -> None:
    data = random_qp(3, n=14, n_equality=1, n_inequality=2, batch=20)
    extra = random_qp(4, n=14, batch=40)
    data["quadratic_P"] = extra["P"].reshape(20, 2, 14, 14)
    data["quadratic_q"] = extra["q"].reshape(20, 2, 14) / 4
    centre = torch.full((20, 2, 14), 0.5, dtype=torch.float64)
    curved = torch.einsum("bki,bkij,bkj->bk", centre, data["quadratic_P"], centre) / 2
    data["quadratic_r"] = curved + (centre * data["quadratic_q"]).sum(-1) + 0.3
    problem = fc.QuadraticProgram(
        **{k: fc.Param(*v.shape[1:], psd=k.endswith("P")) for k, v in data.items()}
    )
    solution = check_against_differences(problem, data, inner, tolerance)
    program = problem.bind(data, 20)
    assert (solution.duals.inequality[:, 2:] > 1e-3).any(-1).sum() >= 10, "curved rows active"
    assert (free_directions(program, solution) >= 5).sum() >= 10


def nonconvex_problem(n: int) -> fc.Problem:
    """Indefinite objective on a sphere, cut by a convex set and by bounds."""

    def objective(x: Tensor, P: Tensor, c: Tensor) -> Tensor:
        return x @ P @ x / 2 + c @ x + torch.sin(2 * x).sum() / 4

    return fc.Problem(
        n,
        objective,
        {"P": fc.Param(n, n), "c": fc.Param(n), "r": fc.Param(), "s": fc.Param(),
         "w": fc.Param(n)},
        equality=lambda x, r: ((x**2).sum() - r).reshape(1),
        inequality=lambda x, w, s: torch.stack([torch.exp(w * x).sum() - s, x[0] * x[1] - 0.2]),
        lower=fc.Param(n, name="low"),
    )  # fmt: skip


def nonconvex_values(n: int, batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(8)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    P = normal(n, n)
    return {
        "P": (P + P.mT) / 2,
        "c": normal(n),
        "r": 2 + normal().abs(),
        "s": n + normal().abs(),
        "w": 1 + normal(n) / 10,
        "low": -0.6 - normal(n).abs(),
    }


@pytest.mark.parametrize(("inner", "tolerance"), INNER)
def test_nonconvex_gradients_match_central_differences(
    inner: dict[str, str], tolerance: float
) -> None:
    n, batch = 9, 20
    problem, values = nonconvex_problem(n), nonconvex_values(n, batch)
    solution = check_against_differences(problem, values, inner, tolerance)
    program = problem.bind({**problem.constants, **values}, batch)
    x = solution.primal.detach()
    duals = fc.recover_duals(program, x).duals
    lowest = torch.linalg.eigvalsh(program.lagrangian_hessian(x, duals))[:, 0]
    assert (lowest < -0.01).sum() >= 5, (
        "Hessians should be indefinite, so that they are convexified"
    )
    assert (free_directions(program, solution) >= 5).sum() >= 10


def portfolio() -> fc.QuadraticProgram:
    """max cᵀx s.t. xᵀVx <= γ, Σx = 1, x >= 0."""
    n = 6
    return fc.QuadraticProgram(
        q=fc.Param(n, name="cost"), A=torch.ones(1, n, dtype=torch.float64),
        b=torch.ones(1, dtype=torch.float64), lower=0.0,
        quadratic_P=fc.Param(1, n, n, psd=True, name="two_V"),
        quadratic_q=torch.zeros(1, n, dtype=torch.float64),
        quadratic_r=fc.Param(1, name="gamma"),
    )  # fmt: skip


def portfolio_values(batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    factor = torch.randn(batch, 1, 6, 6, generator=generator, dtype=torch.float64) / 3
    cost = -torch.rand(batch, 6, generator=generator, dtype=torch.float64)
    return {
        "cost": cost,
        "two_V": 2 * factor @ factor.mT + torch.diag_embed(torch.linspace(0.5, 1.5, 6).double()),
        "gamma": torch.full((batch, 1), 0.3, dtype=torch.float64),
    }


@pytest.mark.parametrize(("inner", "tolerance"), INNER)
def test_portfolio_with_active_risk_constraint(inner: dict[str, str], tolerance: float) -> None:
    """The objective is linear: all curvature comes from the constraint and its multiplier."""
    solution = check_against_differences(portfolio(), portfolio_values(12), inner, tolerance)
    assert (solution.duals.inequality > 1e-3).all(), "the risk constraint should be active"


@pytest.mark.parametrize(("inner", "tolerance"), INNER)
def test_portfolio_with_inactive_risk_constraint_is_a_vertex(
    inner: dict[str, str], tolerance: float
) -> None:
    """All on one asset: an LP vertex whose gradient is 0, though the Hessian is 0 as well."""
    require(inner)
    values = portfolio_values(5)
    values["gamma"] = torch.full((5, 1), 50.0, dtype=torch.float64)

    def vertex(program: fc.SmoothProgram) -> Tensor:
        return torch.nn.functional.one_hot(program.data.q.argmin(-1), 6).double()

    params = {k: v.clone().requires_grad_() for k, v in values.items()}
    solution = build(portfolio(), vertex, inner).solve(**params)
    solution.primal.pow(2).sum().backward()
    for name, value in params.items():
        assert value.grad.abs().max() <= tolerance, name
    assert torch.equal(solution.primal.sum(-1).round(), torch.ones(5, dtype=torch.float64))


class _Shifted(fc.SmoothProgram):
    """A program whose Lagrangian Hessian is off by δI: the fault that must not stay unseen."""

    def __init__(self, program: fc.SmoothProgram, delta: float) -> None:
        self.__dict__.update(program.__dict__)
        self._delta = delta

    def hessian(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.n, dtype=x.dtype)
        return super().hessian(x) + self._delta * eye


class _ShiftedRule(SQPRule):
    delta = 0.1

    def bind(self, program: fc.SmoothProgram, inner: object) -> fc.BoundRule:
        return super().bind(_Shifted(program, self.delta), inner)


@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_a_regularised_hessian_is_caught(delta: float) -> None:
    """With P = 1.9 I the gradient is -g/1.9; δ = 0.1 makes it -g/2, 5% off, at the same x*."""
    problem = fc.QuadraticProgram(P=1.9 * torch.eye(3, dtype=torch.float64), q=fc.Param(3))

    class Rule(_ShiftedRule):
        pass

    Rule.delta = delta
    rule = Rule(SQPConfig(inner=fc.FoldConfig.model_validate(OSQP)))
    layer = fc.build({"problem": problem, "solver": "osqp", "rule": rule, "adjoint": "lfpi"})
    q = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    cotangent = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    (layer(q=q) * cotangent).sum().backward()
    error = (q.grad + cotangent / 1.9).norm() / (cotangent / 1.9).norm()
    if delta:
        assert abs(float(error) - 0.05) < 1e-6
    else:
        assert error < 1e-12
