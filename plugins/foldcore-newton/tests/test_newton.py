"""The Newton rule: at rest at solutions, Φ = 0, exact gradients, honest about singular systems."""

from __future__ import annotations

import pickle

import pytest
import torch
from foldcore_newton import NewtonConfig, NewtonRule
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import random_qp
from foldcore.testing.reference import QPReference

FIELDS = ("P", "q", "A", "b", "G", "h", "lower", "upper")


def exact_solutions(data: dict[str, Tensor], guess: Tensor) -> Tensor:
    """Polish a guess on its own active set, by the reference implementation."""
    rows = [
        torch.from_numpy(
            QPReference.from_guess({k: v[i].numpy() for k, v in data.items()}, guess[i].numpy()).x
        )
        for i in range(len(guess))
    ]
    return torch.stack(rows)


def declared(data: dict[str, Tensor]) -> fc.QuadraticProgram:
    return fc.QuadraticProgram(**{k: fc.Param(*v.shape[1:]) for k, v in data.items()})


def reference_solver(program: fc.SmoothProgram) -> Tensor:
    """Solve each QP by enumerating nothing: SLSQP to 1e-8, then the exact active set."""
    from scipy.optimize import LinearConstraint, minimize

    data = {k: v.detach() for k, v in program.params.items()}
    found = []
    for i in range(program.batch):
        one = {k: v[i].numpy() for k, v in data.items()}
        hessian = (one["P"] + one["P"].T) / 2
        answer = minimize(
            lambda x, hessian=hessian, one=one: x @ hessian @ x / 2 + one["q"] @ x,
            (one["lower"] + one["upper"]) / 2,
            jac=lambda x, hessian=hessian, one=one: hessian @ x + one["q"],
            bounds=list(zip(one["lower"], one["upper"], strict=True)),
            constraints=[
                LinearConstraint(one["A"], one["b"], one["b"]),
                LinearConstraint(one["G"], -float("inf"), one["h"]),
            ],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        found.append(torch.from_numpy(answer.x))
    return exact_solutions(data, torch.stack(found))


class GivenBack(fc.AdjointSolver):
    """v = g, which solves (I - Φᵀ) v = g exactly where Φ = 0, as it is at Newton's fixed point."""

    api_version = 1
    config_class = fc.PluginConfig

    def __init__(self, config: fc.PluginConfig) -> None:
        self.config = config

    def solve(self, operator: fc.FixedPointOperator, cotangent: Tensor) -> fc.AdjointSolution:
        assert operator.zero
        nothing = torch.zeros_like(cotangent[:, 0])
        return fc.AdjointSolution(cotangent, nothing, nothing.long(), nothing == 0)


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    return {k: v for k, v in random_qp(0, n=8, n_equality=2, n_inequality=4, batch=6).items()
            if k in FIELDS}  # fmt: skip


def test_gradients_match_the_implicit_kkt_derivative(batch: dict[str, Tensor]) -> None:
    layer = fc.build(
        {"problem": declared(batch), "solver": reference_solver, "rule": "newton",
         "adjoint": GivenBack}
    )  # fmt: skip
    params = {k: v.clone().requires_grad_() for k, v in batch.items()}
    x = layer(**params)
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    (x * cotangent).sum().backward()
    for i in range(len(x)):
        data = {k: v[i].numpy() for k, v in batch.items()}
        expected = QPReference.from_guess(data, x[i].detach().numpy()).gradients(
            cotangent[i].numpy()
        )
        for name, value in expected.items():
            given = params[name].grad
            assert given is not None
            error = (given[i] - torch.from_numpy(value)).abs().max()
            assert error <= 1e-9 * max(abs(value).max(), float(cotangent[i].norm())), name


def test_step_is_at_rest_and_jacobian_vanishes(batch: dict[str, Tensor]) -> None:
    problem = declared(batch)
    program = problem.bind(batch, 6)
    x = reference_solver(program)
    bound = NewtonRule(NewtonConfig()).bind(program, {})
    state = bound.lift(fc.Solution(x, (fc.Status.OPTIMAL,) * 6))
    assert (bound.step(state) - state).abs().max() < 1e-9
    jacobian = torch.func.jacrev(lambda z: bound.step(z).sum(0))(state)
    assert jacobian.abs().max() < 1e-9
    operator = bound.jacobian(state)
    assert operator is not None
    assert operator.zero


def test_smooth_nlp_matches_central_differences() -> None:
    n = 4

    def objective(x: Tensor, c: Tensor) -> Tensor:
        return ((x - c) ** 4).sum() + (x**2).sum()

    def inequality(x: Tensor, r: Tensor) -> Tensor:
        return (x.exp().sum() - r).reshape(1)

    problem = fc.Problem(
        n, objective, {"c": fc.Param(n), "r": fc.Param()}, inequality=inequality, convex=True
    )

    def black_box(program: fc.SmoothProgram) -> Tensor:
        from scipy.optimize import minimize

        rows = []
        for i in range(program.batch):
            one = torch.arange(program.batch) == i

            def value(x: object, one: Tensor = one) -> float:
                return float(program.objective(torch.as_tensor(x).expand(len(one), -1))[one])

            def jac(x: object, one: Tensor = one) -> object:
                return program.gradient(torch.as_tensor(x).expand(len(one), -1))[one][0].numpy()

            def margin(x: object, one: Tensor = one) -> object:
                return -program.inequality(torch.as_tensor(x).expand(len(one), -1))[one][0].numpy()

            answer = minimize(
                value, [0.0] * n, jac=jac, method="SLSQP",
                constraints={"type": "ineq", "fun": margin}, options={"ftol": 1e-15},
            )  # fmt: skip
            rows.append(torch.from_numpy(answer.x))
        return torch.stack(rows)

    layer = fc.build(
        {"problem": problem, "solver": black_box, "rule": "newton", "adjoint": GivenBack,
         "fixed_point": {"polish": 3}}
    )  # fmt: skip
    c = torch.linspace(0.5, 1.5, 2 * n, dtype=torch.float64).reshape(2, n)
    r = torch.tensor([4.5, 5.0], dtype=torch.float64)
    params = {"c": c.clone().requires_grad_(), "r": r.clone().requires_grad_()}
    solution = layer.solve(**params)
    assert solution.kkt is not None
    assert solution.kkt.residual.max() < 1e-10
    assert (solution.duals.inequality > 0.1).all(), "the constraint should be active"
    weights = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    (solution.primal * weights).sum().backward()
    step = 1e-5
    for name, value in (("c", c), ("r", r)):
        for index in range(value[0].numel()):
            bump = torch.zeros_like(value)
            bump.reshape(2, -1)[:, index] = step
            with torch.no_grad():
                up, down = ({**params, name: value + s * bump} for s in (1, -1))
                slope = ((layer(**up) - layer(**down)) / (2 * step) * weights).sum(-1)
            given = params[name].grad.reshape(2, -1)[:, index]
            assert torch.allclose(given, slope, rtol=1e-6, atol=1e-7), name


def test_a_row_stated_twice_has_the_gradient_of_one_and_none_by_one_copy() -> None:
    """x = -q + (q₁ + q₂ - 1)/2 on x₁ + x₂ = -1; which copy carries the multiplier does not matter."""
    rows = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    problem = fc.QuadraticProgram(
        P=torch.eye(2, dtype=torch.float64), q=fc.Param(2), G=rows, h=fc.Param(2)
    )
    h = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    for split in ([0.1, 0.2], [0.5, 0.0], [0.0, 0.25]):

        def answer(program: fc.SmoothProgram, split: list[float] = split) -> fc.Solution:
            x = torch.tensor([[-0.5, -0.5]], dtype=torch.float64)
            zero = torch.zeros_like(x)
            mu = torch.tensor([split], dtype=torch.float64)
            return fc.Solution(x, (fc.Status.OPTIMAL,), fc.Duals(zero[:, :0], mu, zero, zero))

        choice = {"problem": problem, "solver": answer, "rule": "newton", "adjoint": GivenBack}
        layer = fc.build(choice)
        q = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        layer(q=q, h=h)[0].backward()
        assert q.grad is not None
        assert torch.allclose(q.grad, torch.tensor([-0.5, 0.5], dtype=torch.float64), atol=1e-14)
        moved = h.clone().requires_grad_()
        with pytest.raises(fc.DegenerateError, match=r"'h' is not unique.*inequality 0, 1"):
            layer(q=q.detach(), h=moved)[0].backward()


def test_copies_made_from_one_parameter_have_a_derivative_by_it() -> None:
    """min ½‖x‖² on c - x₁ - x₂ <= 0, stated twice: x = (c/2, c/2)."""
    problem = fc.Problem(
        2,
        lambda x: (x**2).sum() / 2,
        {"c": fc.Param()},
        inequality=lambda x, c: torch.stack([c - x.sum(), 3 * (c - x.sum())]),
    )

    def answer(program: fc.SmoothProgram) -> fc.Solution:
        c = program.params["c"].detach().reshape(-1, 1)
        zero = torch.zeros_like(c)
        duals = fc.Duals(
            zero[:, :0], torch.cat([c / 2, zero], -1), zero * c.new_ones(2), zero * c.new_ones(2)
        )
        return fc.Solution(c.expand(-1, 2) / 2, (fc.Status.OPTIMAL,) * len(c), duals)

    layer = fc.build({"problem": problem, "solver": answer, "rule": "newton", "adjoint": GivenBack})
    c = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    layer(c=c)[:, 0].sum().backward()
    assert c.grad is not None
    assert torch.allclose(c.grad, torch.full_like(c, 0.5), atol=1e-14)


def test_infinite_bounds_get_zero_gradient_and_pinned_variables_work() -> None:
    inf = float("inf")
    lower = torch.tensor([-inf, 0.3, 0.0], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([inf, 0.3, inf], dtype=torch.float64, requires_grad=True)
    problem = fc.QuadraticProgram(
        P=torch.eye(3, dtype=torch.float64), q=fc.Param(3), lower=fc.Param(3), upper=fc.Param(3)
    )

    def clip(program: fc.SmoothProgram) -> Tensor:
        data = program.data
        return torch.minimum(torch.maximum(-data.q, data.lower), data.upper).reshape(1, 3)

    layer = fc.build({"problem": problem, "solver": clip, "rule": "newton", "adjoint": GivenBack})
    q = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    x = layer(q=q, lower=lower, upper=upper)
    assert torch.equal(x, torch.tensor([-1.0, 0.3, 0.0], dtype=torch.float64))
    x.sum().backward()
    assert torch.equal(q.grad, torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64))
    assert torch.equal(lower.grad, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    assert torch.equal(upper.grad, torch.zeros(3, dtype=torch.float64))


def test_regularizers_and_l1_balls_are_refused_with_the_reason() -> None:
    problem = fc.Problem(2, lambda x, c: ((x - c) ** 2).sum(), {"c": fc.Param(2)},
                         constraints=[fc.L1Ball(1.0)])  # fmt: skip
    with pytest.raises(fc.ConfigError, match="L1Ball"):
        fc.build({"problem": problem, "solver": lambda p: p, "rule": "newton"})


def test_rule_is_picklable() -> None:
    assert isinstance(pickle.loads(pickle.dumps(NewtonRule(NewtonConfig()))), NewtonRule)
