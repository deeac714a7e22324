"""The dual problem's matrices, products without gradient and Jacobian against dense closed forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from foldcore_fdpg import FDPGConfig, FDPGRule, fdpg_solve
from foldcore_fdpg import dual_problem as module
from foldcore_fdpg.dual_problem import DualProblem
from torch import Tensor

import foldcore as fc

N, BATCH = 9, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hessian(kind: str) -> Tensor:
    if kind == "diagonal":
        return torch.diag(normal(N, seed=1).abs() + 0.5)
    factor = normal(*((BATCH,) if kind == "batched" else ()), N, N, seed=1)
    return factor @ factor.mT + torch.eye(N, dtype=torch.float64)


def operator(kind: str, rows: int = 5) -> Tensor:
    return normal(*((BATCH,) if kind == "batched" else ()), rows, N, seed=2)


def dense_gram(P: Tensor, D: Tensor) -> Tensor:
    return D @ torch.linalg.inv(P) @ D.mT


TERMS: dict[str, Callable[[Tensor], list[fc.Regularizer]]] = {
    "absolute values": lambda D: [fc.L1(torch.tensor(0.3).double(), D)],
    "two terms": lambda D: [
        fc.L1(torch.linspace(0.1, 0.5, D.shape[-2]).double(), D),
        fc.L1(torch.tensor(0.2).double()),
    ],
    "group norm": lambda D: [fc.Composition(fc.GroupL2(torch.tensor(0.4).double(), 5), D)],
}


@pytest.mark.parametrize("limit", [1500, 3])
@pytest.mark.parametrize("D", ["shared", "batched"])
@pytest.mark.parametrize("P", ["shared", "diagonal", "batched"])
@pytest.mark.parametrize("terms", TERMS)
def test_steps_without_gradient_equal_the_recorded_step(
    terms: str, P: str, D: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DENSE_ROWS", limit)
    dual = DualProblem(hessian(P), normal(BATCH, N, seed=3), TERMS[terms](operator(D)), batch=BATCH)
    w = normal(*dual.zeros().shape, seed=4)
    step_size = torch.tensor([0.1, 0.2, 0.05]).double()
    expected = dual.descend(w, step_size)
    kept = w.clone()
    assert torch.allclose(dual.descent(step_size)(w), expected, rtol=0, atol=1e-13)
    assert torch.equal(w, kept), "a step must not write into its argument"
    image = dual.terms.image(dual.primal(w))
    assert torch.allclose(dual.image_map()(w), image, rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [1500, 3])
@pytest.mark.parametrize("D", ["shared", "batched"])
@pytest.mark.parametrize("P", ["shared", "diagonal", "batched"])
def test_gram_matrix_and_curvature(
    P: str, D: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DENSE_ROWS", limit)
    identity = torch.eye(N, dtype=torch.float64)
    matrix = operator(D)
    dual = DualProblem(hessian(P), None, TERMS["two terms"](matrix), batch=BATCH)
    stacked = torch.cat([matrix, identity.expand(*matrix.shape[:-2], N, N)], dim=-2)
    assert torch.equal(dual.matrix, stacked)
    gram = dense_gram(hessian(P), stacked)
    shared = P != "batched" and D == "shared"
    assert dual.gram.ndim == (2 if shared else 3)
    assert torch.allclose(dual.gram, gram, rtol=1e-12, atol=1e-12)
    norms = torch.linalg.matrix_norm(gram, 2).expand(BATCH)
    assert dual.curvature.shape == (BATCH,)
    assert bool((dual.curvature <= norms * (1 + 1e-12)).all()), "the estimate is from below"
    assert torch.allclose(dual.curvature, norms, rtol=3e-2)


def test_the_norm_of_nothing_is_zero() -> None:
    dual = DualProblem(hessian("shared"), None, TERMS["absolute values"](0 * operator("shared")), 2)
    assert torch.equal(dual.curvature, torch.zeros(2, dtype=torch.float64))


def program(D: Tensor) -> fc.SmoothProgram:
    problem = fc.Problem(
        N,
        lambda x, d: ((x - d) ** 2).sum() / 2,
        {"d": fc.Param(N)},
        regularizers=[fc.L1(0.4, fc.Param(5, N, name="D"))],
    )
    return problem.bind({**problem.constants, "d": normal(BATCH, N), "D": D}, BATCH)


@pytest.mark.parametrize("limit", [1500, 3])
def test_a_shared_operator_is_measured_once_and_for_one_sample(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DENSE_ROWS", limit)
    shapes: list[tuple[int, ...]] = []

    def eigenvalue(matrix: Tensor) -> Tensor:
        shapes.append(tuple(matrix.shape))
        return fc.largest_eigenvalue(matrix)

    def norm(product: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        shapes.append(tuple(like.shape))
        return fc.operator_norm(product, like)

    bound_program = program(operator("shared"))
    solution = fdpg_solve(bound_program)
    monkeypatch.setattr(module, "largest_eigenvalue", eigenvalue)
    monkeypatch.setattr(module, "operator_norm", norm)
    bound = FDPGRule(FDPGConfig()).bind(bound_program, {})
    state = bound.lift(solution)
    assert bound.residual(state, bound.step(state)).max() < 1e-9
    assert shapes == ([(5, 5)] if limit > 5 else [(1, 5)])


@pytest.mark.parametrize("D", ["shared", "batched"])
def test_the_jacobian_is_that_of_the_step(D: str) -> None:
    bound = FDPGRule(FDPGConfig()).bind(program(operator(D)), {})
    state = normal(BATCH, 5, seed=5)
    known = bound.jacobian(state)
    assert known is not None
    full = torch.func.jacrev(bound.step)(state)
    expected = torch.stack([full[i, :, i] for i in range(BATCH)])
    clamped = (expected.abs().amax(-1) == 0).sum()
    assert 0 < clamped < expected.shape[0] * expected.shape[1], "both kinds of entries are wanted"
    assert torch.allclose(known.dense(), expected, rtol=0, atol=1e-14)
    vector = normal(BATCH, 5, seed=6)
    forward = (expected @ vector.unsqueeze(-1)).squeeze(-1)
    backward = (expected.mT @ vector.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(known.jvp(vector), forward, rtol=0, atol=1e-14)
    assert torch.allclose(known.vjp(vector), backward, rtol=0, atol=1e-14)


def test_terms_without_a_box_keep_autograds_jacobian() -> None:
    term = fc.Composition(fc.GroupL2(0.4, 5), operator("shared"))
    problem = fc.Problem(
        N, lambda x, d: ((x - d) ** 2).sum() / 2, {"d": fc.Param(N)}, regularizers=[term]
    )
    bound_program = problem.bind({**problem.constants, "d": normal(BATCH, N)}, BATCH)
    bound = FDPGRule(FDPGConfig()).bind(bound_program, {})
    assert bound.jacobian(bound.initial()) is None
