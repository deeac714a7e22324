"""The projected gradient rule: fixed points, closed-form Jacobians, steps, inner projections."""

from __future__ import annotations

import pytest
import torch
from foldcore_pgd import PGDConfig, PGDRule
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import random_qp

N = 6


def bound_rule(
    problem: fc.ParametricProblem, values: dict[str, Tensor], batch: int, **options: object
) -> fc.BoundRule:
    owned = {**problem.constants, **values}
    return PGDRule(PGDConfig(**options)).bind(problem.bind(owned, batch), {})


def box_problem(batch: int = 3) -> tuple[fc.QuadraticProgram, dict[str, Tensor]]:
    data = random_qp(1, N, batch=batch)
    problem = fc.QuadraticProgram(
        P=fc.Param(N, N, psd=True), q=fc.Param(N), lower=fc.Param(N), upper=fc.Param(N)
    )
    return problem, data


def solve_by_iteration(bound: fc.BoundRule, steps: int = 20000) -> Tensor:
    state = bound.initial(None)
    for _ in range(steps):
        state = bound.step(state)
    return state


def test_solution_is_at_rest_and_other_points_move() -> None:
    bound = bound_rule(*box_problem(), 3)
    solution = solve_by_iteration(bound)
    assert bound.residual(solution, bound.step(solution)).max() < 1e-11
    elsewhere = bound.initial(solution + 0.1)
    assert bound.residual(elsewhere, bound.step(elsewhere)).min() > 1e-3


def test_jacobian_on_a_box_is_the_masked_gradient_step() -> None:
    problem, data = box_problem()
    bound = bound_rule(problem, data, 3)
    solution = solve_by_iteration(bound)
    jacobian = torch.func.jacrev(lambda z: bound.step(z).sum(0))(solution)
    free = ((solution > data["lower"]) & (solution < data["upper"])).double()
    assert 0 < free.sum() < free.numel(), "the instance should have free and fixed variables"
    for i in range(3):
        expected = free[i][:, None] * (torch.eye(N) - bound.step_scale[i] * data["P"][i])
        assert torch.allclose(jacobian[:, i, :], expected, rtol=0, atol=1e-13)


def test_default_step_is_the_inverse_of_each_samples_largest_eigenvalue() -> None:
    problem, data = box_problem()
    largest = torch.linalg.eigvalsh(data["P"])[:, -1]
    step = bound_rule(problem, data, 3).step_scale
    assert torch.allclose(step, 1 / largest, rtol=5e-3)


def test_step_size_option_sets_the_step() -> None:
    problem, data = box_problem()
    bound = bound_rule(problem, data, 3, step_size=0.05)
    point = torch.zeros(3, N, dtype=torch.float64)
    expected = fc.Box(data["lower"], data["upper"]).project(-0.05 * data["q"])
    assert torch.equal(bound.step(point), expected)


def test_local_step_of_a_smooth_objective_is_the_inverse_local_curvature() -> None:
    problem = fc.Problem(3, lambda x: (x**4).sum() / 12, lower=-2.0)
    program = problem.bind(dict(problem.constants), 1)
    point = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)
    bound = PGDRule(PGDConfig()).bind(program, {}).at(point)
    assert torch.allclose(bound.step_scale, torch.tensor([0.25], dtype=torch.float64), rtol=5e-3)


SETS: dict[str, dict[str, Tensor]] = {
    "box": {"lower": torch.full((N,), -0.3), "upper": torch.full((N,), 0.4)},
    "simplex": {"A": torch.ones(1, N), "b": torch.ones(1), "lower": torch.zeros(N)},
    "capped simplex": {
        "A": torch.ones(1, N), "b": torch.full((1,), 2.0), "lower": torch.zeros(N),
        "upper": torch.full((N,), 0.6),
    },
    "half space": {"G": torch.linspace(-1, 1, N)[None], "h": torch.full((1,), -0.5)},
    "affine": {"A": torch.arange(2.0 * N).reshape(2, N).sin(), "b": torch.tensor([0.3, -0.2])},
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("adjoint", ["gmres", "direct"])
def test_gradients_agree_with_the_inner_fold_and_differences(name: str, adjoint: str) -> None:
    pytest.importorskip("foldcore_osqp", reason="the inner fold is solved by foldcore-osqp")
    pytest.importorskip("foldcore_newton", reason="the inner fold uses foldcore-newton")
    for kind in ("direct", adjoint):
        pytest.importorskip(f"foldcore_{kind}", reason=f"uses foldcore-{kind}")
    data = {k: v.double() for k, v in SETS[name].items()}
    P = random_qp(5, N)["P"]
    problem = fc.QuadraticProgram(
        P=P, q=fc.Param(N), **{k: fc.Param(*v.shape) for k, v in data.items()}
    )
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(4, N, generator=generator, dtype=torch.float64)
    weights = torch.randn(4, N, generator=generator, dtype=torch.float64)
    answers = []
    inner = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
    for rule in ({"kind": "pgd"}, {"kind": "pgd", "projection": "inner", "inner": inner}):
        layer = fc.build(
            {"problem": problem, "solver": "osqp", "rule": rule,
             "adjoint": {"kind": adjoint, "rtol": 1e-11}, "fixed_point": {"polish": 2}}
        )  # fmt: skip
        params = {"q": q.clone().requires_grad_()}
        params.update({k: v.clone().requires_grad_() for k, v in data.items()})
        (layer(**params) * weights).sum().backward()
        answers.append({k: v.grad for k, v in params.items()})
    closed, nested = answers
    for key in closed:
        scale = max(float(closed[key].norm()), float(weights.norm()))
        assert (closed[key] - nested[key]).norm() <= 1e-8 * scale, key
    step = 1e-5
    for key, value in {"q": q, **data}.items():
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        values = {"q": q, **data}
        with torch.no_grad():
            up, down = (layer(**{**values, key: value + s * step * direction}) for s in (1.0, -1.0))
        slope = ((up - down) / (2 * step) * weights).sum()
        given = (closed[key] * direction).sum()
        assert abs(given - slope) <= 1e-6 * max(1.0, abs(float(slope))), key


def test_inner_step_equals_the_closed_form_step() -> None:
    data = {k: v.double() for k, v in SETS["capped simplex"].items()}
    problem = fc.QuadraticProgram(P=random_qp(5, N)["P"], q=fc.Param(N), **data)
    rule = PGDRule(PGDConfig(projection="inner"))
    inner_problem = rule.inner_problems(problem)["inner"]

    class Exact:
        def solve_inner(self, values: dict[str, Tensor], *, duals: bool = False) -> fc.Solution:
            program = inner_problem.bind({**inner_problem.constants, **values}, 2)
            x = (
                fc.CappedSimplex(2.0, 0.6)
                .bind(
                    {"s.total": torch.tensor(2.0).double(), "s.cap": torch.tensor(0.6).double()},
                    "s",
                )
                .project(-program.data.q)
            )
            return fc.Solution(x, (fc.Status.OPTIMAL,) * 2)

    q = torch.randn(2, N, generator=torch.Generator().manual_seed(0)).double()
    program = problem.bind({**problem.constants, "q": q}, 2)
    point = torch.full((2, N), 1 / 3, dtype=torch.float64)
    nested = rule.bind(program, {"inner": Exact()}).step(point)
    closed = PGDRule(PGDConfig()).bind(program, {}).step(point)
    assert torch.allclose(nested, closed, rtol=0, atol=1e-14)


def test_unsupported_problems_are_refused_with_the_reason() -> None:
    general = fc.QuadraticProgram(
        P=torch.eye(2), q=fc.Param(2), G=torch.eye(2), h=torch.ones(2), lower=torch.zeros(2)
    )
    rule = PGDRule(PGDConfig(projection="closed_form"))
    assert "no closed-form projection" in str(rule.unsupported_reason(general.structure))
    curved = fc.Problem(
        2, lambda x: x.square().sum(), inequality=lambda x: (x.exp().sum() - 3).reshape(1)
    )
    reason = PGDRule(PGDConfig()).unsupported_reason(curved.structure)
    assert reason is not None
    assert "applies exp to x" in reason
    lasso = fc.Problem(2, lambda x: x.square().sum(), regularizers=[fc.L1(0.1)])
    assert "nonsmooth" in str(PGDRule(PGDConfig()).unsupported_reason(lasso.structure))


def test_iteration_is_offered_only_where_it_converges() -> None:
    problem, _ = box_problem()
    assert PGDRule(PGDConfig()).converges(problem.structure)
    smooth = fc.Problem(2, lambda x: (x**4).sum(), lower=0.0)
    assert not PGDRule(PGDConfig()).converges(smooth.structure)
    assert PGDRule(PGDConfig(step_size=0.01)).converges(smooth.structure)


def test_samples_of_dependent_equalities_are_held_in_place_and_reported() -> None:
    generator = torch.Generator().manual_seed(2)
    data = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in (("q", (3, N)), ("A", (3, 2, N)), ("b", (3, 2)))
    }
    data["A"][1, 1] = -data["A"][1, 0]
    problem = fc.QuadraticProgram(
        P=random_qp(5, N)["P"], q=fc.Param(N), A=fc.Param(2, N), b=fc.Param(2)
    )
    bound = bound_rule(problem, data, 3)
    start = torch.randn(3, N, generator=generator, dtype=torch.float64)
    for one in (bound, bound.at(start), bound.with_step(torch.full((3,), 0.1).double())):
        assert one is not None
        failed = one.failed()
        assert failed is not None
        assert failed.tolist() == [False, True, False]
        assert torch.equal(one.initial(start)[1], start[1])
        updated = one.step(start)
        assert torch.equal(updated[1], start[1])
        feasible = torch.einsum("bij,bj->bi", data["A"], updated)
        assert torch.allclose(feasible[::2], data["b"][::2], rtol=0, atol=1e-12)
        assert one.residual(start, updated).isinf().tolist() == [False, True, False]
    jacobian = torch.func.jacrev(lambda z: bound.step(z).sum(0))(start)
    assert not jacobian[:, 1].any()


@pytest.mark.parametrize("copies", [1, 3])
def test_constant_rows_that_depend_on_each_other_take_an_inner_fold(copies: int) -> None:
    pytest.importorskip("foldcore_newton", reason="a rule for the inner problem")
    n = 6
    A = torch.randn(2, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x0 = torch.linspace(-1, 1, n, dtype=torch.float64)
    rows = torch.cat([A, A.sum(0, keepdim=True), *[2 * A[:1] for _ in range(copies)]])
    problem = fc.QuadraticProgram(
        P=torch.eye(n, dtype=torch.float64), q=fc.Param(n), A=rows, b=rows @ x0
    )
    layer = fc.build({"problem": problem, "rule": "pgd", "adjoint": "direct"})
    q = torch.linspace(2, -1, n, dtype=torch.float64).requires_grad_()
    x = layer(q=q)
    kernel = torch.eye(n, dtype=torch.float64) - torch.linalg.pinv(A) @ A
    assert torch.allclose(x, x0 - kernel @ (q.detach() + x0), atol=1e-10)
    cotangent = torch.linspace(0, 1, n, dtype=torch.float64)
    x.backward(cotangent)
    assert torch.allclose(q.grad, -kernel @ cotangent, atol=1e-10)
