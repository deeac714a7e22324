"""Gradients through folded ADMM against implicit KKT gradients and central differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from foldcore_admm import ADMMConfig, ADMMRule
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp
from foldcore.testing.reference import QPReference

pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")

Values = dict[str, Tensor]
INF = float("inf")
N, P, M, B = 24, 2, 4, 20
ITERATE = {"kind": "iterate", "rtol": 1e-13, "atol": 1e-13, "max_iter": 50000}
RULE = {"kind": "admm", "rho": "auto", "over_relaxation": 1.6}


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def build(problem: fc.ParametricProblem, adjoint: object = "direct", **config: object) -> fc.Fold:
    return fc.build(
        {"problem": problem, "solver": ITERATE, "rule": RULE, "adjoint": adjoint, **config}
    )


def leaves(data: Values) -> Values:
    return {k: v.clone().requires_grad_() for k, v in data.items()}


def assert_gradients_match(data: Values, given: Values, x: Tensor, cotangent: Tensor) -> list[int]:
    """Compare all fields with the implicit KKT derivative; return the free directions."""
    free = []
    for i in range(len(x)):
        one = {k: v[i].numpy() for k, v in data.items()}
        reference = QPReference.from_guess(one, x[i].detach().numpy())
        free.append(reference.free_directions)
        for name, value in reference.gradients(cotangent[i].numpy()).items():
            expected, found = torch.from_numpy(value), given[name].grad
            assert found is not None
            size = max(float(expected.norm()), float(cotangent[i].norm()))
            assert (found[i] - expected).norm() <= 1e-6 * size, (name, i)
    return free


@pytest.fixture(scope="module")
def data() -> Values:
    return random_qp(0, N, P, M, batch=B)


@pytest.mark.parametrize("adjoint", ["direct", "gmres"])
def test_gradients_of_every_field_match_the_implicit_kkt_derivative(
    data: Values, adjoint: str
) -> None:
    pytest.importorskip(f"foldcore_{adjoint}", reason=f"uses foldcore-{adjoint}")
    assert set(data) == {"P", "q", "A", "b", "G", "h", "lower", "upper"}
    layer = build(declare(data, data), {"kind": adjoint, "rtol": 1e-11})
    params = leaves(data)
    x = layer(**params)
    cotangent = normal(B, N, seed=1)
    (x * cotangent).sum().backward()
    free = assert_gradients_match(data, params, x, cotangent)
    assert sum(count >= 5 for count in free) >= 10


def jacobian(bound: fc.BoundRule, state: Tensor) -> Tensor:
    return torch.func.jacrev(lambda z: bound.step(z).sum(0))(state).transpose(0, 1)


def fixed_point(data: Values, **options: object) -> tuple[fc.BoundRule, Tensor]:
    batch = len(data["q"])
    problem = declare(data, data)
    bound = ADMMRule(ADMMConfig(**options)).bind(problem.bind(data, batch), {})
    layer = build(problem)
    with torch.no_grad():
        return bound, bound.lift(layer.solve(**data))


def test_lfpi_agrees_where_the_spectral_radius_allows_it(data: Values) -> None:
    pytest.importorskip("foldcore_lfpi", reason="uses foldcore-lfpi")
    bound, state = fixed_point(data, rho="auto", over_relaxation=1.6)
    radius = torch.linalg.eigvals(jacobian(bound, state)).abs().amax(-1)
    fast = torch.nonzero(radius < 0.99).flatten()
    assert len(fast) >= 10
    chosen = {k: v[fast] for k, v in data.items()}
    layer = build(declare(chosen, chosen), {"kind": "lfpi", "rtol": 1e-10, "max_iter": 5000})
    params = leaves(chosen)
    x = layer(**params)
    cotangent = normal(len(fast), N, seed=1)
    (x * cotangent).sum().backward()
    assert_gradients_match(chosen, params, x, cotangent)


def test_shared_parameters_get_the_sum_of_the_samples_gradients(data: Values) -> None:
    """The factorisation is shared as well: its gradient collects all right-hand sides."""
    q = data["q"]
    shared = {k: v[0] for k, v in data.items() if k != "q"}
    layer = build(declare(data, data))
    one, each = leaves(shared), leaves({k: v.expand(B, *v.shape) for k, v in shared.items()})
    cotangent = normal(B, N, seed=1)
    for params in (one, each):
        (layer(q=q, **params) * cotangent).sum().backward()
    for name in shared:
        total = each[name].grad.sum(0)
        assert (one[name].grad - total).norm() <= 1e-9 * max(total.norm(), cotangent.norm()), name


def test_duals_are_differentiable() -> None:
    data = random_qp(1, 8, 2, 3, batch=3)
    layer = build(declare(data, data))
    weights = {k: normal(3, s, seed=i) for i, (k, s) in enumerate(
        {"equality": 2, "inequality": 3, "lower": 8, "upper": 8}.items())}  # fmt: skip

    def value(params: Values) -> Tensor:
        duals = layer.solve(**params).duals
        assert duals is not None
        return sum((getattr(duals, k) * w).sum() for k, w in weights.items())

    params = leaves(data)
    value(params).backward()
    step = 1e-5
    for i, (name, start) in enumerate(data.items()):
        direction = normal(*start.shape, seed=10 + i)
        if name == "P":
            direction = direction + direction.mT
        with torch.no_grad():
            up, down = (value({**data, name: start + s * step * direction}) for s in (1, -1))
        slope = float(up - down) / (2 * step)
        given = float((params[name].grad * direction).sum())
        assert abs(given - slope) <= 1e-6 * max(1.0, abs(slope)), name


def test_infinite_bounds_get_zero_gradient_and_pinned_variables_work() -> None:
    lower = torch.tensor([-INF, 0.3, 0.0], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([INF, 0.3, INF], dtype=torch.float64, requires_grad=True)
    h = torch.tensor([INF, 0.1], dtype=torch.float64, requires_grad=True)
    problem = fc.QuadraticProgram(
        P=torch.eye(3).double(), q=fc.Param(3), lower=fc.Param(3), upper=fc.Param(3),
        G=torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]).double(), h=fc.Param(2),
    )  # fmt: skip
    q = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    x = build(problem)(q=q, lower=lower, upper=upper, h=h)
    expected = torch.tensor([-1.0, 0.3, 0.0], dtype=torch.float64)
    assert torch.allclose(x, expected, rtol=0, atol=1e-12)
    x.sum().backward()
    assert torch.allclose(q.grad, torch.tensor([-1.0, 0, 0]).double(), atol=1e-12)
    assert torch.allclose(lower.grad + upper.grad, torch.tensor([0, 1.0, 1.0]).double(), atol=1e-12)
    assert lower.grad[0] == upper.grad[0] == upper.grad[2] == 0
    assert torch.equal(h.grad, torch.zeros(2).double())


@pytest.mark.parametrize("rows", [0, 3])
def test_without_inequalities_one_step_is_the_solution(rows: int) -> None:
    data = random_qp(7, 8, rows, bounds=False, batch=3)
    layer = build(declare(data, data))
    params = leaves(data)
    solution = layer.solve(**params)
    assert solution.kkt is not None
    assert solution.kkt.residual.max() < 1e-13
    assert max(solution.iterations) <= 2
    cotangent = normal(3, 8, seed=1)
    (solution.primal * cotangent).sum().backward()
    assert_gradients_match(data, params, solution.primal, cotangent)
    bound = ADMMRule(ADMMConfig()).bind(declare(data, data).bind(data, 3), {})
    state = bound.initial(None)
    operator = bound.jacobian(state)
    assert operator is not None
    assert operator.zero
    wrong = solution.primal.detach() + torch.tensor([[0.0], [0.2], [0.0]])
    residual = bound.residual(wrong, bound.step(wrong))
    assert torch.allclose(residual, torch.tensor([0.0, 0.2, 0.0]).double(), atol=1e-12)


def test_an_equality_stated_twice_leaves_the_derivative_by_q_and_none_by_its_own_data() -> None:
    """Sample 1 has x₁ + x₂ = 0 twice: x = -q + (q₁ + q₂)/2."""
    problem = fc.QuadraticProgram(
        P=torch.eye(2).double(), q=fc.Param(2), A=fc.Param(2, 2), b=torch.zeros(2).double()
    )

    def known(program: fc.SmoothProgram) -> Tensor:
        q = program.data.q
        x = -q + q.sum(-1, keepdim=True) / 2
        return torch.where(torch.tensor([[False], [True]]), x, 0.0)

    layer = build(problem, solver=known)
    q = torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    A = torch.stack([torch.eye(2), torch.ones(2, 2)]).double()
    layer(q=q, A=A)[:, 0].sum().backward()
    expected = torch.tensor([[0.0, 0.0], [-0.5, 0.5]], dtype=torch.float64)
    assert torch.allclose(q.grad, expected, atol=1e-14)
    x = layer(q=q.detach(), A=A.requires_grad_())
    with pytest.raises(fc.DegenerateError, match=r"'A' is not unique for samples 1.*equality 0, 1"):
        x[:, 0].sum().backward()


def test_sparse_data_gives_the_dense_answer_on_the_pattern() -> None:
    data = random_qp(2, 6, 2, 3)
    sparse, values = {}, {}
    for name in ("P", "A", "G"):
        matrix = data[name]
        where = torch.nonzero(torch.ones_like(matrix)).T
        entries = fc.Param(where.shape[1], name=name)
        sparse[name] = fc.Sparse(where[0], where[1], tuple(matrix.shape), entries)
        values[name] = matrix.flatten()
    rest = {k: fc.Param(*v.shape) for k, v in data.items() if k not in sparse}
    layers = build(fc.QuadraticProgram(**sparse, **rest)), build(declare(data, data))
    answers = []
    for layer, given in zip(layers, (values, {}), strict=True):
        params = leaves({**data, **given})
        x = layer(**params)
        (x * normal(6, seed=1)).sum().backward()
        answers.append((x, params))
    (thin, thin_params), (full, full_params) = answers
    assert torch.allclose(thin, full, rtol=0, atol=1e-11)
    for name in data:
        expected = full_params[name].grad.reshape(thin_params[name].shape)
        assert torch.allclose(thin_params[name].grad, expected, rtol=1e-8, atol=1e-9), name


def fitted_rate(errors: list[float]) -> float:
    """Return minus the slope of the log-error over the last two thirds of those above 1e-11."""
    above = [(k, math.log(e)) for k, e in enumerate(errors) if e > 1e-11]
    k, logs = np.array(above[len(above) // 3 :]).T
    return -float(np.polyfit(k, logs, 1)[0])


def test_backward_iteration_converges_at_the_rate_of_a_complex_pair() -> None:
    """One-step ratios oscillate there; the fit finds -log ρ(Φ) within 2%."""
    data = random_qp(3, 16, 2, 8, batch=30)
    bound, state = fixed_point(data, rho=1.0)
    phi = jacobian(bound, state)
    spectrum = torch.linalg.eigvals(phi)
    order = spectrum.abs().argsort(-1, descending=True)
    dominant = spectrum.gather(-1, order)
    checked = 0
    for i in range(len(phi)):
        first, third = dominant[i, 0], dominant[i, 2]
        radius = float(first.abs())
        pair = abs(float(first.imag)) > 0.05
        if not (0.3 < radius < 0.99 and pair and float(third.abs()) < 0.99 * radius):
            continue
        g = normal(1, phi.shape[-1], seed=i)
        eye = torch.eye(phi.shape[-1], dtype=torch.float64)
        exact = torch.linalg.solve(eye - phi[i].mT, g[0])
        one = {k: v[i : i + 1] for k, v in data.items()}
        alone, _ = fixed_point(one, rho=1.0)
        pull = torch.func.vjp(alone.step, state[i : i + 1])[1]
        v, errors = g, []
        while (error := float((v[0] - exact).norm())) > 1e-11:
            errors.append(error)
            v = pull(v)[0] + g
        assert fitted_rate(errors) == pytest.approx(-math.log(radius), rel=0.02), i
        ratios = [a / b for a, b in zip(errors[-20:], errors[-21:-1], strict=True)]
        assert max(ratios) - min(ratios) > 0.02, "a complex pair makes one-step ratios oscillate"
        checked += 1
    assert checked >= 3
