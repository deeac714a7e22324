"""The dual rule and solver: equations, steps, lifting, other terms, honest reports."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from foldcore_fdpg import FDPGConfig, FDPGRule, FDPGSolver, FDPGSolverConfig, fdpg_solve
from torch import Tensor

import foldcore as fc

N = 12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def differencing(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)[:-1] - torch.eye(n, dtype=torch.float64)[1:]


def total_variation_2d(rows: int, columns: int) -> Tensor:
    """Return vertical and horizontal differences: more rows than columns, so not of full row rank."""
    eye = torch.eye
    down = torch.kron(differencing(rows), eye(columns, dtype=torch.float64))
    across = torch.kron(eye(rows, dtype=torch.float64), differencing(columns))
    return torch.cat([down, across])


def denoiser(*terms: fc.Regularizer, n: int = N) -> fc.Problem:
    return fc.Problem(
        n, lambda x, d: ((x - d) ** 2).sum() / 2, {"d": fc.Param(n)}, regularizers=list(terms)
    )


def bind(problem: fc.Problem, batch: int = 1, **values: Tensor) -> fc.SmoothProgram:
    return problem.bind({**problem.constants, **values}, batch)


def test_one_step_is_equation_28() -> None:
    d, operator, weight = normal(2, N), differencing(N), 0.7
    program = bind(denoiser(fc.L1(weight, operator)), 2, d=d)
    bound = FDPGRule(FDPGConfig(step_size=0.25)).bind(program, {})
    w = normal(2, N - 1, seed=1)
    u = w @ operator + d
    v = u @ operator.mT - 4 * w
    shrunk = (v.abs() - 4 * weight).clamp(min=0) * v.sign()
    expected = w - u @ operator.mT / 4 + shrunk / 4
    assert torch.allclose(bound.primal(w), u, rtol=0, atol=1e-14)
    assert torch.allclose(bound.step(w), expected, rtol=0, atol=1e-14)


def test_default_step_is_the_inverse_of_each_operators_squared_norm() -> None:
    operators = torch.stack([differencing(N), 3 * normal(N - 1, N)])
    hessian = normal(N, N, seed=2)
    hessian = hessian @ hessian.mT + torch.eye(N)
    problem = fc.Problem(
        N,
        lambda x, d: x @ hessian @ x / 2 - d @ x,
        {"d": fc.Param(N)},
        regularizers=[fc.L1(0.3, fc.Param(N - 1, N))],
    )
    program = bind(problem, 2, d=normal(2, N), operator=operators)
    step = FDPGRule(FDPGConfig()).bind(program, {}).step_scale
    assert isinstance(step, Tensor)
    norms = torch.linalg.matrix_norm(operators @ torch.linalg.inv(hessian) @ operators.mT, 2)
    assert torch.allclose(step, 1 / norms, rtol=3e-2)
    assert not step.requires_grad


def test_the_papers_step_of_a_quarter_diverges_for_a_large_operator() -> None:
    program = bind(denoiser(fc.L1(0.3, 3 * differencing(N))), d=normal(1, N))
    ours, theirs = (FDPGRule(FDPGConfig(step_size=size)).bind(program, {}) for size in (None, 0.25))
    gaps = []
    for bound in (ours, theirs):
        state = bound.initial()
        for _ in range(3000):
            state = bound.step(state)
        gaps.append(float((bound.step(state) - state).abs().max()))
    assert gaps[0] < 1e-12
    assert gaps[1] > 1e-2


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_lifting_a_solution_gives_a_state_at_rest(noise: float) -> None:
    for operator in (differencing(N), normal(N - 3, N), total_variation_2d(3, 4)):
        program = bind(denoiser(fc.L1(0.4, operator)), 4, d=normal(4, N).cumsum(-1))
        bound = FDPGRule(FDPGConfig()).bind(program, {})
        solved = fdpg_solve(program, tol=1e-13)
        assert all(status.ok for status in solved.status)
        primal = solved.primal + noise * normal(4, N, seed=5)
        state = bound.lift(fc.Solution(primal, solved.status))
        assert state.abs().max() <= 0.4
        assert bound.residual(state, bound.step(state)).max() < 1e-10
        assert (bound.primal(state) - solved.primal).abs().max() < 1e-10


def test_large_images_are_lifted_without_a_dense_gram_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("foldcore_fdpg.dual_problem.DENSE_ROWS", 5)
    monkeypatch.setattr("foldcore_fdpg.dual_problem.DualProblem.gram", None)
    program = bind(denoiser(fc.L1(0.4, differencing(N))), 4, d=normal(4, N).cumsum(-1))
    bound = FDPGRule(FDPGConfig()).bind(program, {})
    solved = fdpg_solve(program, tol=1e-12)
    state = bound.lift(fc.Solution(solved.primal, solved.status))
    assert bound.residual(state, bound.step(state)).max() < 1e-10


def test_lifting_a_wrong_point_is_not_at_rest() -> None:
    program = bind(denoiser(fc.L1(0.4, differencing(N))), d=normal(1, N).cumsum(-1))
    bound = FDPGRule(FDPGConfig()).bind(program, {})
    wrong = normal(1, N, seed=9)
    state = bound.lift(fc.Solution(wrong, (fc.Status.OPTIMAL,)))
    assert bound.residual(state, bound.step(state)).max() > 1e-2


def two_dimensional(**options: object) -> tuple[fc.Fold, dict[str, Tensor]]:
    problem = fc.Problem(
        N,
        lambda x, d: ((x - d) ** 2).sum() / 2,
        {"d": fc.Param(N)},
        regularizers=[fc.L1(fc.Param(), total_variation_2d(3, 4))],
    )
    layer = fc.build(
        {"problem": problem, "rule": "fdpg", "adjoint": {"kind": "gmres", "rtol": 1e-12}, **options}
    )
    return layer, {"d": 2 * normal(3, N, seed=3), "weight": torch.tensor(0.4).double()}


@pytest.mark.parametrize("solver", ["fdpg", "osqp"])
def test_gradients_are_right_although_duals_are_not_unique(solver: str) -> None:
    pytest.importorskip("foldcore_gmres", reason="uses foldcore-gmres")
    pytest.importorskip(f"foldcore_{solver}", reason=f"uses foldcore-{solver}")
    layer, values = two_dimensional(solver=solver)
    check_by_differences(layer, values)


def check_by_differences(layer: fc.Fold, values: dict[str, Tensor], size: float = 1e-5) -> None:
    """Compare directional derivatives with central differences, 1e-6 relative to the cotangent."""
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    x = layer(**leaves)
    cotangent = normal(*x.shape, seed=11)
    (x * cotangent).sum().backward()
    for name, value in values.items():
        direction = normal(*value.shape, seed=12)
        with torch.no_grad():
            up, down = (
                layer(**{**values, name: value + s * size * direction}) for s in (1.0, -1.0)
            )
        slope = float(((up - down) / (2 * size) * cotangent).sum())
        gradient = leaves[name].grad
        assert gradient is not None, name
        given = float((gradient * direction).sum())
        assert abs(given - slope) <= 1e-6 * max(abs(slope), float(cotangent.norm())), name


OTHER_TERMS: dict[str, tuple[list[fc.Regularizer], dict[str, Tensor]]] = {
    "group norm of an image": (
        [fc.Composition(fc.GroupL2(fc.Param(), 3), fc.Param(9, N))],
        {"weight": torch.tensor(0.5).double(), "operator": normal(9, N, seed=4)},
    ),
    "huber of differences": (
        [fc.Composition(fc.Huber(fc.Param(), fc.Param()), differencing(N))],
        {"weight": torch.tensor(0.8).double(), "delta": torch.tensor(0.6).double()},
    ),
    "fused lasso in a box": (
        [
            fc.L1(fc.Param(name="tv"), differencing(N)),
            fc.L1(fc.Param(name="sparse")),
            fc.Indicator(fc.Box(-1.0, fc.Param(name="cap"))),
        ],
        {"tv": torch.tensor(0.3).double(), "sparse": torch.tensor(0.1).double(),
         "cap": torch.tensor(0.5).double()},
    ),
    "sparse group lasso": (
        [fc.GroupL2(fc.Param(name="group"), 4), fc.L1(fc.Param(name="sparse"))],
        {"group": torch.tensor(0.4).double(), "sparse": torch.tensor(0.2).double()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_TERMS)
def test_gradients_of_other_terms_agree_with_differences(name: str) -> None:
    pytest.importorskip("foldcore_gmres", reason="uses foldcore-gmres")
    terms, values = OTHER_TERMS[name]
    problem = denoiser(*terms)
    assert problem.lowered_structure.problem_class is fc.ProblemClass.NLP
    layer = fc.build(
        {"problem": problem, "solver": {"kind": "fdpg", "rtol": 1e-13, "atol": 1e-13},
         "rule": "fdpg", "adjoint": {"kind": "gmres", "rtol": 1e-12}}
    )  # fmt: skip
    solution = layer.solve(d=normal(3, N), **values)
    assert solution.kkt is not None
    assert solution.kkt.residual.max() < 1e-8
    assert not torch.isnan(solution.kkt.residual).any()
    check_by_differences(layer, {"d": normal(3, N), **values})


def test_gradient_of_a_hessian_and_the_linear_term() -> None:
    pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")
    problem = fc.Problem(
        N,
        lambda x, P, q: x @ P @ x / 2 + q @ x,
        {"P": fc.Param(N, N, psd=True), "q": fc.Param(N)},
        regularizers=[fc.L1(0.3, differencing(N))],
    )
    layer = fc.build({"problem": problem, "solver": "fdpg", "rule": "fdpg", "adjoint": "direct"})
    factor = normal(2, N, N)
    hessian = factor @ factor.mT / N + 0.5 * torch.eye(N)
    check_by_differences(layer, {"P": hessian, "q": normal(2, N, seed=1)})


def test_solver_agrees_with_a_qp_solver() -> None:
    pytest.importorskip("foldcore_osqp", reason="compares with foldcore-osqp")
    pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")
    problem = denoiser(fc.L1(fc.Param(N - 1), differencing(N)))
    values = {"d": 2 * normal(5, N), "weight": normal(5, N - 1, seed=1).abs()}
    answers = []
    for solver in ("osqp", "fdpg", fdpg_solve):
        layer = fc.build(
            {"problem": problem, "solver": solver, "rule": "fdpg", "adjoint": "direct"}
        )
        solution = layer.solve(**values)
        assert solution.kkt is not None
        assert solution.kkt.residual.max() < 1e-7
        answers.append(solution.primal)
    assert (answers[0] - answers[1]).abs().max() < 1e-8
    assert (answers[1] - answers[2]).abs().max() < 1e-9


def test_momentum_needs_fewer_steps_than_the_plain_iteration() -> None:
    problem = denoiser(fc.L1(4.0, differencing(40)), n=40)
    program = bind(problem, 2, d=normal(2, 40).cumsum(-1))
    solved = fdpg_solve(program, tol=1e-10)
    assert all(status.ok for status in solved.status)
    bound = FDPGRule(FDPGConfig()).bind(program, {})
    state = bound.initial()
    for _ in range(4 * max(solved.iterations)):
        state = bound.step(state)
    unmet = bound.residual(state, bound.step(state)) > 1e-10 * (1 + state.norm(dim=-1))
    assert unmet.any(), solved.iterations


def test_too_few_steps_are_reported_per_sample() -> None:
    program = bind(
        denoiser(fc.L1(4.0, differencing(N))), 2, d=torch.stack([normal(N), 0 * normal(N)])
    )
    solution = fdpg_solve(program, max_iter=3)
    assert solution.status == (fc.Status.ITERATION_LIMIT, fc.Status.OPTIMAL)
    assert solution.iterations == (3, 1)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    d = normal(4, N).cumsum(-1)
    problem = denoiser(fc.L1(2.0, differencing(N)))
    together = fdpg_solve(bind(problem, 4, d=d))
    for i in range(4):
        alone = fdpg_solve(bind(problem, 1, d=d[i : i + 1]))
        assert alone.iterations[0] == together.iterations[i]
        assert torch.allclose(alone.primal[0], together.primal[i], rtol=1e-12, atol=1e-14)


def test_an_indefinite_sample_fails_alone() -> None:
    pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")
    problem = fc.Problem(
        N,
        lambda x, P, q: x @ P @ x / 2 + q @ x,
        {"P": fc.Param(N, N, psd=True), "q": fc.Param(N)},
        regularizers=[fc.L1(0.3, differencing(N))],
    )
    eye = torch.eye(N, dtype=torch.float64)
    layer = fc.build(
        {"problem": problem, "solver": "fdpg", "rule": "fdpg", "adjoint": "direct",
         "on_failure": "mask"}
    )  # fmt: skip
    q = normal(N).requires_grad_()
    with pytest.warns(fc.SolveWarning):
        solution = layer.solve(P=torch.stack([eye, -eye]), q=q)
    assert [status.ok for status in solution.status] == [True, False]
    solution.primal[0].sum().backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()


def test_unsuitable_problems_are_refused_with_the_reason() -> None:
    rule, solver = FDPGRule(FDPGConfig()), FDPGSolver(FDPGSolverConfig())
    smooth = fc.Problem(2, lambda x: x.square().sum())
    assert "no nonsmooth term" in str(rule.unsupported_reason(smooth.structure))
    assert "no nonsmooth term" in str(solver.unsupported_reason(smooth.lowered_structure))
    linear = fc.Problem(2, lambda x: x.sum(), regularizers=[fc.L1(1.0)])
    assert "linear" in str(rule.unsupported_reason(linear.structure))
    assert "positive definite" in str(solver.unsupported_reason(linear.lowered_structure))
    quartic = fc.Problem(2, lambda x: (x**4).sum(), regularizers=[fc.L1(1.0)])
    assert "not recognised" in str(rule.unsupported_reason(quartic.structure))
    assert solver.unsupported_reason(quartic.lowered_structure) is not None
    bounded = fc.Problem(2, lambda x: x.square().sum(), lower=0.0, regularizers=[fc.L1(1.0)])
    assert "Indicator" in str(rule.unsupported_reason(bounded.structure))
    assert "Indicator" in str(solver.unsupported_reason(bounded.lowered_structure))
    with pytest.raises(fc.UnsupportedError, match="fdpg"):
        fdpg_solve(bind(smooth))


def test_default_parts_serve_total_variation() -> None:
    pytest.importorskip("foldcore_gmres", reason="needs an adjoint solver")
    layer = fc.build({"problem": denoiser(fc.L1(0.5, differencing(N)))})
    assert isinstance(layer.rule, FDPGRule)


def test_iteration_is_offered_with_a_step_known_to_converge() -> None:
    structure = denoiser(fc.L1(0.5, differencing(N))).structure
    assert FDPGRule(FDPGConfig()).converges(structure)
    assert not FDPGRule(FDPGConfig(step_size=0.25)).converges(structure)


def test_layers_copy_and_pickle() -> None:
    pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")
    layer = fc.build(
        {"problem": denoiser(fc.L1(0.5, differencing(N))), "solver": "fdpg", "rule": "fdpg",
         "adjoint": "direct"}
    )  # fmt: skip
    d = normal(2, N)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(d=d), layer(d=d))


def test_float32_stays_float32() -> None:
    pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")
    problem = denoiser(fc.L1(0.5, differencing(N)))
    layer = fc.build(
        {"problem": problem, "solver": "fdpg", "rule": "fdpg",
         "adjoint": {"kind": "direct", "rtol": 1e-4}}
    )  # fmt: skip
    d = normal(2, N).float().requires_grad_()
    x = layer(d=d)
    x.sum().backward()
    assert x.dtype == torch.float32
    assert d.grad is not None
    assert torch.isfinite(d.grad).all()
