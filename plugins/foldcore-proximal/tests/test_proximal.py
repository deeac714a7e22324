"""The proximal gradient rule: fixed points, steps, gradients against independent derivatives."""

from __future__ import annotations

import pytest
import torch
from foldcore_proximal import ProximalConfig, ProximalRule
from torch import Tensor

import foldcore as fc

N, ROWS, BATCH = 8, 12, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MATRIX = normal(ROWS, N, seed=1)


def least_squares(term: fc.Regularizer | None) -> fc.Problem:
    return fc.Problem(
        N,
        lambda x, y: ((MATRIX @ x - y) ** 2).sum() / 2,
        {"y": fc.Param(ROWS)},
        regularizers=[] if term is None else [term],
    )


TERMS: dict[str, tuple[fc.Regularizer, dict[str, Tensor]]] = {
    "lasso": (fc.L1(fc.Param()), {"weight": torch.tensor(2.0).double()}),
    "group lasso": (fc.GroupL2(fc.Param(4), 2), {"weight": torch.full((BATCH, 4), 2.5).double()}),
    "nuclear norm": (fc.NuclearNorm(fc.Param(), (2, 4)), {"weight": torch.tensor(4.0).double()}),
    "elastic net": (
        fc.ElasticNet(fc.Param(N), fc.Param()),
        {"l1": torch.full((N,), 2.0).double(), "l2": torch.tensor(1.5).double()},
    ),
    "huber": (
        fc.Huber(fc.Param(), fc.Param()),
        {"weight": torch.tensor(5.0).double(), "delta": torch.tensor(0.3).double()},
    ),
    "indicator": (fc.Indicator(fc.L1Ball(fc.Param())), {"radius": torch.tensor(0.8).double()}),
    "any callable": (
        fc.ProximalTerm(
            lambda y, step, weight: (y.abs() - step * weight).clamp(min=0) * y.sign(),
            params={"weight": fc.Param()},
        ),
        {"weight": torch.tensor(2.0).double()},
    ),
}


def make(problem: fc.Problem, adjoint: str = "direct", **options: object) -> fc.Fold:
    pytest.importorskip(f"foldcore_{adjoint}", reason=f"uses foldcore-{adjoint}")
    solver = {"kind": "iterate", "rtol": 1e-14, "atol": 1e-13, "max_iter": 100000}
    return fc.build(
        {"problem": problem, "solver": solver, "rule": {"kind": "proximal", **options},
         "adjoint": {"kind": adjoint, "rtol": 1e-11}}
    )  # fmt: skip


def bind(problem: fc.Problem, **values: Tensor) -> fc.SmoothProgram:
    return problem.bind({**problem.constants, **values}, BATCH)


@pytest.mark.parametrize("name", TERMS)
def test_solution_is_certified_and_at_rest_and_other_points_move(name: str) -> None:
    term, values = TERMS[name]
    problem = least_squares(term)
    values = {"y": normal(BATCH, ROWS), **values}
    solution = make(problem).solve(**values)
    assert solution.kkt is not None
    assert solution.kkt.residual.max() < 1e-10
    bound = ProximalRule(ProximalConfig()).bind(bind(problem, **values), {})
    x = solution.primal
    assert bound.residual(x, bound.step(x)).max() < 1e-10
    moved = x + 0.1
    assert bound.residual(moved, bound.step(moved)).min() > 1e-2


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("adjoint", ["gmres", "lfpi"])
def test_gradients_agree_with_differences(name: str, adjoint: str) -> None:
    term, values = TERMS[name]
    layer = make(least_squares(term), adjoint)
    values = {"y": normal(BATCH, ROWS), **values}
    leaves = {key: value.clone().requires_grad_() for key, value in values.items()}
    cotangent = normal(BATCH, N, seed=5)
    (layer(**leaves) * cotangent).sum().backward()
    size = 1e-5
    for key, value in values.items():
        direction = normal(*value.shape, seed=6)
        with torch.no_grad():
            up, down = (layer(**{**values, key: value + s * size * direction}) for s in (1, -1))
        slope = float(((up - down) / (2 * size) * cotangent).sum())
        gradient = leaves[key].grad
        assert gradient is not None
        given = float((gradient * direction).sum())
        assert abs(given - slope) <= 1e-6 * max(abs(slope), float(cotangent.norm())), key


def test_lasso_gradient_is_that_of_the_normal_equations_on_the_support() -> None:
    """With support S: x_S = (A_SᵀA_S)⁻¹(A_Sᵀy - λ sign), differentiated by hand."""
    term, values = TERMS["lasso"]
    y = normal(BATCH, ROWS).requires_grad_()
    weight = values["weight"].clone().requires_grad_()
    x = make(least_squares(term))(y=y, weight=weight)
    cotangent = normal(BATCH, N, seed=5)
    (x * cotangent).sum().backward()
    slope = torch.zeros((), dtype=torch.float64)
    assert y.grad is not None
    for i in range(BATCH):
        support = x[i].detach().abs() > 1e-9
        assert 0 < int(support.sum()) < N
        columns = MATRIX[:, support]
        solved = torch.linalg.solve(columns.mT @ columns, cotangent[i][support])
        assert torch.allclose(y.grad[i], columns @ solved, rtol=0, atol=1e-9)
        slope = slope - solved @ x[i].detach()[support].sign()
    assert torch.allclose(weight.grad, slope, rtol=0, atol=1e-9)


def test_group_lasso_gradient_is_that_of_its_optimality_on_the_active_groups() -> None:
    """Differentiate A_Sᵀ(A_S x - y) + λ_g x_g/‖x_g‖ = 0 over the active groups in y."""
    term, values = TERMS["group lasso"]
    y = normal(BATCH, ROWS).requires_grad_()
    x = make(least_squares(term))(y=y, **values)
    cotangent = normal(BATCH, N, seed=5)
    (x * cotangent).sum().backward()
    assert y.grad is not None
    counts = []
    for i in range(BATCH):
        point = x[i].detach()
        groups = [g for g in range(4) if float(point[2 * g : 2 * g + 2].norm()) > 1e-9]
        counts.append(len(groups))
        index = [j for g in groups for j in (2 * g, 2 * g + 1)]
        columns = MATRIX[:, index]
        curved = columns.mT @ columns
        for k, g in enumerate(groups):
            block = point[2 * g : 2 * g + 2]
            length, unit = block.norm(), block / block.norm()
            bend = values["weight"][i, g] / length * (torch.eye(2) - torch.outer(unit, unit))
            curved[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] += bend
        expected = columns @ torch.linalg.solve(curved, cotangent[i][index])
        assert torch.allclose(y.grad[i], expected, rtol=0, atol=1e-9)
    assert min(counts) < 4, "some group should be inactive"
    assert max(counts) > 0


def test_elastic_net_gradient_is_that_of_ridge_regression_on_the_support() -> None:
    term, values = TERMS["elastic net"]
    y = normal(BATCH, ROWS).requires_grad_()
    l2 = values["l2"].clone().requires_grad_()
    x = make(least_squares(term))(y=y, l1=values["l1"], l2=l2)
    cotangent = normal(BATCH, N, seed=5)
    (x * cotangent).sum().backward()
    slope = torch.zeros((), dtype=torch.float64)
    assert y.grad is not None
    for i in range(BATCH):
        support = x[i].detach().abs() > 1e-9
        columns = MATRIX[:, support]
        ridge = columns.mT @ columns + 1.5 * torch.eye(columns.shape[1])
        solved = torch.linalg.solve(ridge, cotangent[i][support])
        assert torch.allclose(y.grad[i], columns @ solved, rtol=0, atol=1e-9)
        slope = slope - solved @ x[i].detach()[support]
    assert torch.allclose(l2.grad, slope, rtol=0, atol=1e-9)


def test_rate_of_lfpi_is_the_spectral_radius() -> None:
    """ρ(Φ) = 1 - α·λ_min of the support's Gram matrix: soft thresholding only masks the gradient step."""
    term, values = TERMS["lasso"]
    problem = least_squares(term)
    values = {"y": normal(BATCH, ROWS), **values}
    x = make(problem).solve(**values).primal
    bound = ProximalRule(ProximalConfig()).bind(bind(problem, **values), {})
    jacobian = torch.func.jacrev(lambda z: bound.step(z).sum(0))(x)
    step = bound.step_scale
    for i in range(BATCH):
        radius = float(torch.linalg.eigvals(jacobian[:, i]).abs().max())
        columns = MATRIX[:, x[i].abs() > 1e-9]
        least = float(torch.linalg.eigvalsh(columns.mT @ columns)[0])
        assert abs(radius - (1 - float(step[i]) * least)) < 1e-10
        assert 0.3 < radius < 1


def test_steps() -> None:
    problem = least_squares(fc.L1(0.1))
    program = bind(problem, y=normal(BATCH, ROWS))
    inverse = 1 / float(torch.linalg.matrix_norm(MATRIX.mT @ MATRIX, 2))
    default = ProximalRule(ProximalConfig()).bind(program, {}).step_scale
    assert torch.allclose(default, torch.full((BATCH,), inverse).double(), rtol=5e-3)
    given = ProximalRule(ProximalConfig(step_size=0.02)).bind(program, {})
    point = normal(BATCH, N)
    expected = point - 0.02 * program.gradient(point)
    expected = (expected.abs() - 0.002).clamp(min=0) * expected.sign()
    assert torch.allclose(given.step(point), expected, rtol=0, atol=1e-15)


def test_local_step_of_a_smooth_objective_is_the_inverse_local_curvature() -> None:
    problem = fc.Problem(
        3, lambda x, s: s * (x**4).sum() / 12, {"s": fc.Param()}, regularizers=[fc.L1(0.1)]
    )
    program = problem.bind({**problem.constants, "s": torch.ones(()).double()}, 1)
    point = torch.tensor([[0.5, 1.0, 2.0]]).double()
    bound = ProximalRule(ProximalConfig()).bind(program, {})
    with pytest.raises(TypeError, match="at"):
        _ = bound.step_scale
    assert torch.allclose(bound.at(point).step_scale, torch.tensor([0.25]).double(), rtol=5e-3)


def test_logistic_regression_with_a_group_norm_through_a_black_box() -> None:
    pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")
    features, labels = normal(20, N, seed=8), normal(20, seed=9).sign()
    problem = fc.Problem(
        N,
        lambda x, s: torch.nn.functional.softplus(-labels * (features @ (x * s))).sum(),
        {"s": fc.Param(N)},
        regularizers=[fc.GroupL2(3.0, 2)],
        convex=True,
    )

    @fc.solver
    def black_box(program: fc.SmoothProgram) -> Tensor:
        (term,) = program.regularizers
        start = torch.zeros(program.batch, N, dtype=torch.float64)
        found = fc.accelerate(
            lambda x: term.prox(x - 0.02 * program.gradient(x), 0.02), start, step_size=0.02
        )
        return found.state

    layer = fc.build(
        {"problem": problem, "solver": black_box, "rule": "proximal", "adjoint": "direct"}
    )
    scale = torch.ones(N, dtype=torch.float64).requires_grad_()
    x = layer(s=scale)
    cotangent, direction = normal(N, seed=1), normal(N, seed=2)
    (x @ cotangent).backward()
    assert bool((x == 0).any())
    with torch.no_grad():
        up, down = (layer(s=scale + s * 1e-5 * direction) for s in (1, -1))
    slope = float((up - down) @ cotangent / 2e-5)
    assert scale.grad is not None
    assert abs(float(scale.grad @ direction) - slope) <= 1e-6 * max(1.0, abs(slope))


def test_one_set_and_no_term_at_all_are_served_too() -> None:
    target = normal(BATCH, N)
    for options, expected in (
        ({}, target),
        ({"constraints": [fc.L2Ball(1.0)]}, fc.L2Ball(1.0).project(target)),
    ):
        problem = fc.Problem(
            N, lambda x, y: ((x - y) ** 2).sum() / 2, {"y": fc.Param(N)}, **options
        )
        assert torch.allclose(make(problem)(y=target), expected, rtol=0, atol=1e-10)


def test_unsuitable_problems_are_refused_with_what_to_use() -> None:
    rule = ProximalRule(ProximalConfig())
    composed = least_squares(fc.L1(1.0, normal(3, N)))
    assert "rule: fdpg" in str(rule.unsupported_reason(composed.structure))
    assert (
        ProximalRule.rank(composed.structure)
        < 6.0
        == ProximalRule.rank(least_squares(fc.L1(1.0)).structure)
    )
    bounded = fc.Problem(2, lambda x: x.square().sum(), lower=0.0, regularizers=[fc.L1(1.0)])
    assert "beside its nonsmooth terms" in str(rule.unsupported_reason(bounded.structure))
    rows = fc.QuadraticProgram(P=torch.eye(2), q=fc.Param(2), G=torch.eye(2), h=torch.ones(2))
    assert "rule: pgd" in str(rule.unsupported_reason(rows.structure))


def test_iteration_is_offered_only_where_it_converges() -> None:
    assert ProximalRule(ProximalConfig()).converges(least_squares(fc.L1(1.0)).structure)
    quartic = fc.Problem(2, lambda x: (x**4).sum(), regularizers=[fc.L1(1.0)])
    assert not ProximalRule(ProximalConfig()).converges(quartic.structure)
    assert ProximalRule(ProximalConfig(step_size=0.01)).converges(quartic.structure)
    saddle = fc.Problem(2, lambda x: x[0] ** 2 - x[1] ** 2, regularizers=[fc.L1(1.0)])
    assert not ProximalRule(ProximalConfig()).converges(saddle.structure)


@pytest.mark.parametrize("as_term", [True, False])
def test_samples_that_have_no_projection_are_held_in_place_and_reported(as_term: bool) -> None:
    matrix, b = normal(BATCH, 2, N, seed=3), normal(BATCH, 2, seed=4)
    matrix[1, 1] = -matrix[1, 0]
    affine = fc.AffineSet(fc.Param(2, N), fc.Param(2))
    part = {"regularizers": [fc.Indicator(affine)]} if as_term else {"constraints": [affine]}
    problem = fc.Problem(N, lambda x: (x**2).sum() / 2, **part)
    bound = ProximalRule(ProximalConfig()).bind(bind(problem, A=matrix, b=b), {})
    failed = bound.failed()
    assert failed is not None
    assert failed.tolist() == [False, True, False]
    point = normal(BATCH, N)
    updated = bound.step(point)
    assert torch.equal(updated[1], point[1])
    rows = torch.einsum("bij,bj->bi", matrix, updated)
    assert torch.allclose(rows[::2], b[::2], rtol=0, atol=1e-12)
    assert bound.residual(point, updated).isinf().tolist() == [False, True, False]
    assert not torch.func.jacrev(lambda z: bound.step(z).sum(0))(point)[:, 1].any()


def test_a_set_is_factored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    affine = fc.AffineSet(normal(2, N, seed=3), normal(2, seed=4))
    problem = fc.Problem(N, lambda x: (x**2).sum() / 2, regularizers=[fc.Indicator(affine)])
    program = bind(problem)
    original, calls = torch.linalg.qr, []

    def counting(given: Tensor) -> object:
        calls.append(given.shape)
        return original(given)

    monkeypatch.setattr(torch.linalg, "qr", counting)
    bound = ProximalRule(ProximalConfig()).bind(program, {})
    state = normal(BATCH, N)
    for _ in range(3):
        state = bound.at(state).step(state)
    assert calls == [(N, 2)]
