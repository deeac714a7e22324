"""Nonsmooth terms: proximal operators are minimisers, their derivatives exact, certificates honest."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

import foldcore as fc
from foldcore.atoms.spectral import shrink_singular_values

N, BATCH = 6, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def soft(y: Tensor, step: float | Tensor, weight: Tensor) -> Tensor:
    return (y.abs() - step * weight).clamp(min=0) * y.sign()


@dataclass(frozen=True)
class Case:
    """A declared term with values for its Params, shared or batched."""

    term: fc.Regularizer
    values: dict[str, Tensor]

    def bound(self, values: dict[str, Tensor] | None = None) -> fc.Regularizer:
        given = self.values if values is None else values
        return self.term.bind({**self.term.constants("t"), **given}, "t")


TERMS: dict[str, Case] = {
    "l1": Case(fc.L1(fc.Param(N)), {"weight": normal(BATCH, N, seed=1).abs()}),
    "group": Case(fc.GroupL2(fc.Param(3), 2), {"weight": full(0.7, 3)}),
    "group, ragged": Case(
        fc.GroupL2(fc.Param(), ((0, 3), (1, 2, 5))), {"weight": full(0.6, BATCH)}
    ),
    "nuclear, wide": Case(fc.NuclearNorm(fc.Param(), (2, 3)), {"weight": full(0.5, BATCH)}),
    "nuclear, tall": Case(fc.NuclearNorm(fc.Param(), (3, 2)), {"weight": full(0.5)}),
    "elastic net": Case(
        fc.ElasticNet(fc.Param(N), fc.Param()), {"l1": full(0.4, N), "l2": full(0.8, BATCH)}
    ),
    "huber": Case(
        fc.Huber(fc.Param(), fc.Param()), {"weight": full(0.9, BATCH), "delta": full(0.5)}
    ),
    "indicator": Case(fc.Indicator(fc.L2Ball(fc.Param())), {"radius": full(1.1, BATCH)}),
    "any callable": Case(
        fc.ProximalTerm(
            soft, lambda x, weight: (weight * x.abs()).sum(-1), {"weight": fc.Param()}
        ),
        {"weight": full(0.5, BATCH)},
    ),
}  # fmt: skip


@pytest.fixture(params=TERMS)
def case(request: pytest.FixtureRequest) -> Case:
    return TERMS[request.param]


def test_prox_is_the_minimiser(case: Case) -> None:
    """No smaller value near by (the objective is strongly convex), nor found from elsewhere."""
    term, y = case.bound(), normal(BATCH, N) * 1.5
    step = full(0.8, BATCH) + torch.arange(BATCH) * 0.3

    def objective(x: Tensor) -> Tensor:
        return term.value(x) + ((x - y) ** 2).sum(-1) / (2 * step)

    x = term.prox(y, step)
    assert (x - y).abs().amax(-1).min() > 1e-3, "the term should have an effect"
    least = objective(x)
    generator = torch.Generator().manual_seed(7)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(300):
            move = torch.randn(BATCH, N, generator=generator, dtype=torch.float64)
            assert bool((objective(x + size * move) > least).all())


@pytest.mark.parametrize("name", [n for n in TERMS if n != "indicator"])
def test_prox_agrees_with_brute_force_minimisation(name: str) -> None:
    term, y = TERMS[name].bound(), normal(BATCH, N) * 1.5
    x = term.prox(y, 0.9)
    for i in range(2):

        def objective(point: Any, i: int = i) -> float:
            everywhere = torch.from_numpy(point).expand(BATCH, N)
            value = term.value(everywhere) + ((everywhere - y) ** 2).sum(-1) / 1.8
            return float(value[i])

        best = y[i].numpy()
        for _ in range(4):
            options = {"xatol": 1e-10, "fatol": 1e-15, "maxiter": 20000, "maxfev": 20000}
            best = minimize(objective, best, method="Nelder-Mead", options=options).x
        assert objective(x[i].numpy()) <= objective(best) + 1e-12
        assert abs(x[i] - torch.from_numpy(best)).max() < 1e-5


def test_prox_gradients_equal_differences(case: Case) -> None:
    y = (normal(BATCH, N) * 1.5).requires_grad_()
    step = full(0.7, BATCH).requires_grad_()
    leaves = [v.clone().requires_grad_() for v in case.values.values()]

    def prox(y: Tensor, step: Tensor, *values: Tensor) -> Tensor:
        return case.bound(dict(zip(case.values, values, strict=True))).prox(y, step)

    assert torch.autograd.gradcheck(
        prox, (y, step, *leaves), eps=1e-6, atol=1e-8, rtol=1e-6, nondet_tol=0
    )


def test_step_shapes_agree(case: Case) -> None:
    term, y = case.bound(), normal(BATCH, N)
    expected = term.prox(y, 0.7)
    for step in (full(0.7), full(0.7, BATCH)):
        assert torch.allclose(term.prox(y, step), expected, rtol=0, atol=1e-15)


def test_moreau_decomposition(case: Case) -> None:
    term, y, step = case.bound(), normal(BATCH, N), full(0.7, BATCH)
    parts = step[:, None] * term.prox(y / step[:, None], 1 / step) + term.dual_prox(y, step)
    assert torch.allclose(parts, y, rtol=0, atol=1e-14)


def test_terms_travel(case: Case) -> None:
    y = normal(BATCH, N)
    for other in (copy.deepcopy(case.term), pickle.loads(pickle.dumps(case.term))):
        assert torch.equal(Case(other, case.values).bound().prox(y, 0.5), case.bound().prox(y, 0.5))


# The nuclear norm where an SVD has no derivative


def with_values(singular: list[float], p: int = 3, q: int = 4) -> Tensor:
    left, _ = torch.linalg.qr(normal(p, p, seed=3))
    right, _ = torch.linalg.qr(normal(q, q, seed=4))
    core = torch.zeros(p, q, dtype=torch.float64)
    core[range(len(singular)), range(len(singular))] = torch.tensor(singular).double()
    return left @ core @ right


@pytest.mark.parametrize(
    "singular",
    [
        [2.0, 2.0, 2.0],
        [2.0, 2.0, 0.0],
        [1.0, 0.0, 0.0],
        [0.2, 0.2, 0.2],
        [2.0, 0.2, 0.2],
        [0.0] * 3,
    ],
)
@pytest.mark.parametrize("tall", [False, True])
def test_nuclear_prox_is_differentiable_at_repeated_and_zero_singular_values(
    singular: list[float], tall: bool
) -> None:
    matrix = with_values(singular).mT if tall else with_values(singular)
    matrix = matrix.contiguous()[None].requires_grad_()
    threshold = full(0.5, 1).requires_grad_()
    given = torch.autograd.functional.jacobian(shrink_singular_values, (matrix, threshold))
    assert all(bool(torch.isfinite(part).all()) for part in given)
    for index in range(matrix.numel()):
        move = torch.zeros_like(matrix).flatten()
        move[index] = 1e-6
        move = move.reshape(matrix.shape)
        up, down = (shrink_singular_values(matrix + s * move, threshold) for s in (1.0, -1.0))
        slope = (up - down) / 2e-6
        column = given[0].reshape(*matrix.shape, -1)[..., index]
        assert torch.allclose(column, slope, rtol=0, atol=1e-6)
    up, down = (shrink_singular_values(matrix, threshold + s * 1e-6) for s in (1.0, -1.0))
    assert torch.allclose(given[1].reshape(matrix.shape), (up - down) / 2e-6, rtol=0, atol=1e-8)


def test_the_plain_svd_formula_fails_there() -> None:
    matrix = with_values([2.0, 2.0, 0.0]).requires_grad_()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    ((left * (values - 0.5).clamp(min=0)) @ right).sum().backward()
    assert matrix.grad is not None
    assert not torch.allclose(
        matrix.grad,
        torch.autograd.functional.jacobian(
            lambda m: shrink_singular_values(m[None], full(0.5, 1)).sum(), matrix.detach()
        ),
    )


def test_nuclear_prox_has_forward_products_and_no_silent_second_derivative() -> None:
    matrix = normal(2, 3, 3).requires_grad_()
    image = shrink_singular_values(matrix, full(0.5, 2))
    probe = torch.zeros_like(matrix).requires_grad_()
    (pulled,) = torch.autograd.grad(image, matrix, probe, create_graph=True)
    tangent = normal(2, 3, 3, seed=5)
    (product,) = torch.autograd.grad(pulled, probe, tangent, retain_graph=True)
    up, down = (
        shrink_singular_values(matrix + s * 1e-6 * tangent, full(0.5, 2)) for s in (1.0, -1.0)
    )
    assert torch.allclose(product, (up - down) / 2e-6, rtol=0, atol=1e-7)
    (first,) = torch.autograd.grad(image.square().sum(), matrix, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), matrix)
    assert bool(second.isnan().all())


def test_zero_weight_is_the_identity_with_its_derivative() -> None:
    y = normal(BATCH, N)
    y[0] = 0
    for term in (fc.NuclearNorm(0.0, (2, 3)), fc.GroupL2(0.0, 2)):
        jacobian = torch.autograd.functional.jacobian(lambda p, t=term: t.prox(p, 1.0).sum(0), y)
        assert torch.allclose(jacobian, torch.eye(N).double()[:, None].expand(-1, BATCH, -1))


# Declarations


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (fc.GroupL2(1.0, 4), "size 4 do not divide n = 6"),
        (fc.GroupL2(1.0, ((0, 1), (1, 2))), r"groups overlap in 0\.\.5"),
        (fc.GroupL2(1.0, ((0, 6),)), "index 6 lies outside"),
        (fc.GroupL2(fc.Param(2), 2), r"weight has shape \(2,\), expected \(3,\)"),
        (fc.GroupL2(-1.0, 2), "negative"),
        (fc.NuclearNorm(1.0, (2, 2)), "does not hold n = 6"),
        (fc.ElasticNet(1.0, -1.0), "l2 has negative"),
        (fc.Huber(1.0, 0.0), "delta has entries <= 0"),
        (fc.Composition(fc.GroupL2(1.0, 2), fc.Param(5, N)), "size 2 do not divide n = 5"),
        (fc.Composition(fc.L1(fc.Param(name="c")), fc.Param(5, N, name="c")), "name 'c'"),
    ],
)
def test_wrong_declarations_are_refused(term: fc.Regularizer, message: str) -> None:
    def declare() -> None:
        term.check(N)
        term.params("t")

    with pytest.raises(fc.ProblemError, match=message):
        declare()


def test_a_prox_of_one_sample_is_refused() -> None:
    term = fc.ProximalTerm(lambda y, step: y[0])
    with pytest.raises(fc.ProblemError, match="whole batch"):
        term.prox(normal(BATCH, N), 1.0)
    with pytest.raises(fc.UnsupportedError, match="value"):
        term.value(normal(BATCH, N))
    with pytest.raises(fc.ProblemError, match="weight is a str"):
        fc.ProximalTerm(soft, params={"weight": "1"})  # type: ignore[dict-item]


def test_indicator_value_and_composition_value() -> None:
    inside = fc.Indicator(fc.Box(-1.0, 1.0))
    x = torch.tensor([[0.5, -1.0], [0.0, 1.5]]).double()
    assert inside.value(x).tolist() == [0.0, float("inf")]
    operator = normal(5, N)
    composed = fc.Composition(fc.L1(0.5), operator)
    x = normal(BATCH, N)
    assert torch.allclose(composed.value(x), fc.L1(0.5, operator).value(x))
    rows, weights = composed.absolute_terms(N)
    assert torch.equal(rows, operator)
    assert weights.tolist() == [0.5] * 5
    assert composed.has_absolute_terms
    assert not fc.Composition(fc.GroupL2(0.5, 5), operator).has_absolute_terms


# Certificates


def least_squares(
    term: fc.Regularizer, *more: fc.Regularizer, **options: Any
) -> tuple[fc.Problem, Callable[[], fc.SmoothProgram]]:
    matrix, target = normal(8, N, seed=2), normal(8, seed=3)
    problem = fc.Problem(
        N, lambda x: ((matrix @ x - target) ** 2).sum() / 2, regularizers=[term, *more], **options
    )
    return problem, lambda: problem.bind(dict(problem.constants), 1)


def iterate(program: fc.SmoothProgram, steps: int = 5000) -> Tensor:
    (term,) = program.regularizers
    step = 1 / torch.linalg.matrix_norm(program.hessian(torch.zeros(1, N)), 2)
    x = torch.zeros(1, N, dtype=torch.float64)
    for _ in range(steps):
        x = term.prox(x - step * program.gradient(x), step)
    return x


@pytest.mark.parametrize(
    "term",
    [
        fc.GroupL2(0.8, 2),
        fc.NuclearNorm(0.8, (2, 3)),
        fc.ElasticNet(0.8, 0.2),
        fc.Huber(0.8, 0.1),
        fc.Indicator(fc.L1Ball(0.5)),
        fc.ProximalTerm(soft, params={"weight": 0.5}),
    ],
)
def test_the_certificate_accepts_solutions_and_no_other_point(term: fc.Regularizer) -> None:
    problem, bind = least_squares(term)
    assert problem.structure.has_prox
    lowered = problem.lowered_structure
    assert lowered.problem_class is fc.ProblemClass.NLP
    assert lowered.has_regularizers
    program = bind()
    lowering = fc.Lowering(program)
    assert lowering.program is program
    x = iterate(program)
    good, _ = fc.kkt_report(lowering.program, x)
    assert good.residual.max() < 1e-12
    bad, _ = fc.kkt_report(lowering.program, x + 0.01)
    assert bad.residual.min() > 1e-3
    assert torch.equal(lowering.complete(x), x)


def test_subgradients_certify_several_terms() -> None:
    terms = fc.GroupL2(0.8, 2), fc.L1(0.4, normal(4, N, seed=6))
    problem, bind = least_squares(*terms)
    assert not problem.structure.has_prox
    assert problem.structure.has_image_prox
    program = bind()
    stacked = fc.StackedTerms(terms, N)
    hessian = program.hessian(torch.zeros(1, N))
    constant = program.gradient(torch.zeros(1, N, dtype=torch.float64))
    inverse = torch.linalg.inv(hessian)

    def primal(s: Tensor) -> Tensor:
        return -(stacked.pull(s) + constant) @ inverse

    norm = fc.operator_norm(
        lambda v: stacked.image(stacked.pull(v) @ inverse), torch.zeros(1, 10).double()
    )
    step = 1 / (1.05 * norm)
    found = fc.accelerate(
        lambda s: stacked.dual_prox(s + step[:, None] * stacked.image(primal(s)), step),
        torch.zeros(1, 10, dtype=torch.float64),
        step_size=step, rtol=1e-14, atol=1e-14,
    )  # fmt: skip
    assert bool(found.converged.all())
    x = primal(found.state)
    good, _ = fc.kkt_report(program, x)
    assert good.residual.max() < 1e-8
    bad, _ = fc.kkt_report(program, x + 0.01)
    assert bad.residual.min() > 1e-4


def test_what_cannot_be_certified_is_refused_at_declaration() -> None:
    with pytest.raises(fc.UnsupportedError, match="Indicator"):
        least_squares(fc.GroupL2(0.8, 2), lower=0.0)
    with pytest.raises(fc.UnsupportedError, match="Indicator"):
        least_squares(fc.L1(0.8), constraints=[fc.L1Ball(1.0)])
    with pytest.raises(fc.UnsupportedError, match="only constraint"):
        fc.Problem(2, lambda x: x.square().sum(), lower=0.0, constraints=[fc.L1Ball(1.0)])

    class Unknown(fc.Regularizer):
        specs: dict[str, Any] = {}  # noqa: RUF012

    with pytest.raises(fc.UnsupportedError, match="neither a proximal operator"):
        least_squares(Unknown())
    _, bind = least_squares(fc.L1(0.8), lower=0.0)
    with pytest.raises(fc.UnsupportedError, match="Lowering"):
        fc.kkt_report(bind(), torch.zeros(1, N, dtype=torch.float64))


def test_an_l1_ball_is_left_to_solvers_of_general_problems() -> None:
    problem = fc.Problem(2, lambda x: x.square().sum(), constraints=[fc.L1Ball(1.0)])
    assert problem.lowered_structure.problem_class is fc.ProblemClass.NLP


def test_acceleration_reports_honestly() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1e-3, 1e-6]).double())
    target = torch.ones(2, 3, dtype=torch.float64)
    target[1, 1:] = 0

    def step(z: Tensor) -> Tensor:
        return z - (z - target) @ matrix

    short = fc.accelerate(step, torch.zeros_like(target), rtol=0, atol=1e-12, max_iter=5)
    assert short.converged.tolist() == [False, True]
    assert short.iterations.tolist() == [5, 2]
    full_run = fc.accelerate(step, torch.zeros_like(target), rtol=0, atol=1e-12, max_iter=50000)
    assert bool(full_run.converged.all())
    gap = (step(full_run.state) - full_run.state).norm(dim=-1)
    assert bool((gap <= full_run.residual + 1e-15).all())
