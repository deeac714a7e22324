"""GMRES against dense solves, its minimisation property and its own reports."""

from __future__ import annotations

import pytest
import torch
from foldcore_gmres import GMRESAdjoint, GMRESConfig
from pydantic import ValidationError
from torch import Tensor

from foldcore.testing import (
    MatrixOperator,
    adjoint_residual,
    random_cotangent,
    random_matrix,
    reference_adjoint,
)

VARIANTS = [{}, {"restart": 7}]


def adjoint_solver(**options: float) -> GMRESAdjoint:
    return GMRESAdjoint(GMRESConfig.model_validate(options))


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference).norm() / reference.norm())


@pytest.fixture(params=VARIANTS, ids=str)
def solver(request: pytest.FixtureRequest) -> GMRESAdjoint:
    return adjoint_solver(rtol=1e-12, **request.param)


def test_a_zero_matrix_that_is_not_declared_works_too(solver: GMRESAdjoint) -> None:
    cotangent = random_cotangent(3, 6)
    answer = solver.solve(MatrixOperator(torch.zeros(3, 6, 6, dtype=torch.float64)), cotangent)
    assert torch.equal(answer.adjoint, cotangent)
    assert answer.converged.all()
    assert answer.iterations.tolist() == [1] * 3


def test_rtol_and_atol_decide_what_counts_as_converged() -> None:
    matrix, cotangent = random_matrix(2, 20, 0.9), random_cotangent(2, 20)
    loose = adjoint_solver(rtol=1e-2).solve(MatrixOperator(matrix), cotangent)
    tight = adjoint_solver(rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    absolute = adjoint_solver(rtol=1e-10, atol=1e-2).solve(MatrixOperator(matrix), cotangent)
    for answer in (loose, tight, absolute):
        assert answer.converged.all()
    assert (loose.iterations < tight.iterations).all()
    assert (absolute.iterations < tight.iterations).all()
    assert (absolute.residual <= 1e-2).all()
    assert (loose.residual > 1e-10 * cotangent.norm(dim=-1)).all()


def test_max_iter_one_reports_non_convergence() -> None:
    operator = MatrixOperator(random_matrix(3, 10, 0.9))
    answer = adjoint_solver(max_iter=1).solve(operator, random_cotangent(3, 10))
    assert not answer.converged.any()
    assert operator.products == 1
    assert answer.iterations.tolist() == [1, 1, 1]


@pytest.mark.parametrize("max_iter", [2, 3, 7, 20])
def test_max_iter_bounds_the_products(max_iter: int) -> None:
    matrix = torch.cat([random_matrix(2, 40, 0.99), random_matrix(1, 40, 0.01)])
    for restart in (1, 4, 50):
        operator = MatrixOperator(matrix)
        solver = adjoint_solver(rtol=1e-13, max_iter=max_iter, restart=restart)
        answer = solver.solve(operator, random_cotangent(3, 40))
        assert operator.products <= max_iter
        assert operator.products == int(answer.iterations.max())
        assert not answer.converged[:2].any()


def test_the_first_cycle_minimises_the_residual_over_the_krylov_space() -> None:
    matrix, cotangent = random_matrix(2, 12, 0.9), random_cotangent(2, 12)
    system = torch.eye(12, dtype=torch.float64) - matrix.mT
    start = cotangent - torch.einsum("bij,bj->bi", system, cotangent)
    for k in range(1, 6):
        answer = adjoint_solver(rtol=0, max_iter=k + 2).solve(MatrixOperator(matrix), cotangent)
        powers = [start]
        for _ in range(k):
            powers.append(torch.einsum("bij,bj->bi", system, powers[-1]))
        images = torch.stack(powers[1:], dim=-1)
        weights = torch.linalg.lstsq(images, start.unsqueeze(-1)).solution
        smallest = (start.unsqueeze(-1) - images @ weights).squeeze(-1).norm(dim=-1)
        assert torch.allclose(answer.residual, smallest, rtol=1e-9)
        assert answer.iterations.tolist() == [k + 2, k + 2]


def test_s_steps_are_enough_whatever_the_radius() -> None:
    matrix, cotangent = random_matrix(4, 15, 2.5), random_cotangent(4, 15)
    answer = adjoint_solver(rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert (answer.iterations <= 15 + 2).all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-9


def test_happy_breakdown_of_one_sample_among_others() -> None:
    """Sample 0 has two distinct eigenvalues: its Krylov space ends after two steps."""
    matrix, cotangent = random_matrix(3, 10, 0.8), random_cotangent(3, 10)
    matrix[0] = torch.diag(torch.tensor([0.5] * 5 + [-0.3] * 5, dtype=torch.float64))
    answer = adjoint_solver(rtol=1e-12).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert answer.iterations[0] == 1 + 2 + 1
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10


def test_restart_trades_memory_for_products() -> None:
    matrix, cotangent = random_matrix(3, 60, 0.9), random_cotangent(3, 60)
    short = adjoint_solver(rtol=1e-9, restart=5).solve(MatrixOperator(matrix), cotangent)
    long = adjoint_solver(rtol=1e-9, restart=60).solve(MatrixOperator(matrix), cotangent)
    assert short.converged.all()
    assert long.converged.all()
    assert (short.iterations > long.iterations).all()
    assert relative_error(short.adjoint, reference_adjoint(matrix, cotangent)) < 1e-7


class Shaky(MatrixOperator):
    """Off by 1e-3 in products 2 to 9, the first cycle's steps: its recursive residual lies."""

    def vjp(self, cotangent: Tensor) -> Tensor:
        exact = super().vjp(cotangent)
        wrong = 1e-3 * torch.flip(exact, (-1,))
        return exact + wrong if 2 <= self.products <= 9 else exact


def test_goes_on_where_the_recursive_residual_lied() -> None:
    matrix, cotangent = random_matrix(2, 8, 0.7), random_cotangent(2, 8)
    operator = Shaky(matrix)
    answer = adjoint_solver(rtol=1e-11).solve(operator, cotangent)
    assert operator.products > 8 + 2, "one cycle of s steps claims to be exact"
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10
    true = adjoint_residual(matrix, answer.adjoint, cotangent)
    assert (true <= 1e-11 * cotangent.norm(dim=-1) * (1 + 1e-3)).all()


def test_stagnation_is_reported_at_once() -> None:
    """Where I - Φᵀ is skew, <r, (I - Φᵀ) r> = 0: a cycle of one step achieves nothing."""
    skew = torch.kron(
        torch.eye(5, dtype=torch.float64),
        torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64),
    )
    matrix = (torch.eye(10, dtype=torch.float64) - skew).mT.expand(3, 10, 10)
    cotangent = random_cotangent(3, 10)
    answer = adjoint_solver(restart=1).solve(MatrixOperator(matrix), cotangent)
    assert not answer.converged.any()
    assert answer.iterations.tolist() == [3, 3, 3], "Φᵀg, one step, one measurement"
    assert adjoint_solver(restart=2).solve(MatrixOperator(matrix), cotangent).converged.all()


@pytest.mark.parametrize(("cosine", "products"), [(0.03, 3), (0.3, 780)])
def test_a_cycle_that_achieves_next_to_nothing_is_the_last(cosine: float, products: int) -> None:
    """Where I - Φᵀ is a rotation, one step leaves sqrt(1 - cos²) of the residual."""
    sine = (1 - cosine**2) ** 0.5
    rotation = torch.tensor([[[cosine, sine], [-sine, cosine]]], dtype=torch.float64)
    matrix = (torch.eye(2, dtype=torch.float64) - rotation).mT
    cotangent = random_cotangent(1, 2)
    answer = adjoint_solver(restart=1, rtol=1e-8).solve(MatrixOperator(matrix), cotangent)
    assert abs(int(answer.iterations) - products) <= 30
    assert bool(answer.converged) == (products > 3)


class Liar(MatrixOperator):
    """Flips and triples its products within the first cycle."""

    def vjp(self, cotangent: Tensor) -> Tensor:
        exact = super().vjp(cotangent)
        return -3 * exact if 2 <= self.products <= 9 else exact


def test_a_cycle_that_made_things_worse_is_undone() -> None:
    matrix, cotangent = random_matrix(2, 8, 0.9), random_cotangent(2, 8)
    answer = adjoint_solver().solve(Liar(matrix), cotangent)
    assert not answer.converged.any()
    assert torch.equal(answer.adjoint, cotangent)
    assert torch.allclose(
        answer.residual, torch.einsum("bij,bi->bj", matrix, cotangent).norm(dim=-1), rtol=1e-12
    )


@pytest.mark.parametrize("size", [6, 30])
def test_singular_systems(size: int) -> None:
    """Component 0 has Φ = 1: solvable where g₀ = 0; else no residual is below 1."""
    matrix = random_matrix(4, size, 0.6)
    matrix[:, :, 0] = 0
    matrix[:, 0, :] = 0
    matrix[:, 0, 0] = 1
    cotangent = random_cotangent(4, size)
    inner = reference_adjoint(matrix[:, 1:, 1:], cotangent[:, 1:])
    cotangent[:, 0] = 0
    answer = adjoint_solver(rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint[:, 1:], inner) < 1e-9

    cotangent[:, 0] = 1
    answer = adjoint_solver(rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    assert not answer.converged.any()
    assert answer.adjoint.isfinite().all()
    assert (answer.residual >= 1 - 1e-12).all()


def test_breakdown_on_an_unsolvable_system_keeps_the_least_residual() -> None:
    """I - Φᵀ = diag(0, ½, ¼, ½, ¼): the fourth step adds nothing, and its column must not be used."""
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.75, 0.5, 0.75], dtype=torch.float64))
    cotangent = torch.tensor([[1.0, 2.0, -1.0, 3.0, 0.5]], dtype=torch.float64)
    answer = adjoint_solver().solve(MatrixOperator(matrix, batch=1), cotangent)
    assert not answer.converged.any()
    assert abs(float(answer.residual) - 1) < 1e-12
    solvable = torch.tensor([[4.0, -4.0, 6.0, 2.0]], dtype=torch.float64)
    assert relative_error(answer.adjoint[:, 1:], solvable) < 1e-10


def test_options_out_of_range_are_refused() -> None:
    for options in ({"max_iter": 0}, {"rtol": -1.0}, {"restart": 0}, {"anderson": 3}):
        with pytest.raises(ValidationError):
            GMRESConfig.model_validate(options)
