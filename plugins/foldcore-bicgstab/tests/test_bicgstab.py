"""BiCGSTAB against dense solves, at its breakdowns, and its own reports."""

from __future__ import annotations

import pytest
import torch
from foldcore_bicgstab import BiCGSTABAdjoint, BiCGSTABConfig
from pydantic import ValidationError
from torch import Tensor

from foldcore.testing import (
    MatrixOperator,
    adjoint_residual,
    random_cotangent,
    random_matrix,
    reference_adjoint,
)

VARIANTS = [{}, {"restarts": 1}]


def adjoint_solver(**options: float) -> BiCGSTABAdjoint:
    return BiCGSTABAdjoint(BiCGSTABConfig.model_validate(options))


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference).norm() / reference.norm())


@pytest.fixture(params=VARIANTS, ids=str)
def solver(request: pytest.FixtureRequest) -> BiCGSTABAdjoint:
    return adjoint_solver(rtol=1e-12, **request.param)


def test_a_zero_matrix_that_is_not_declared_works_too(solver: BiCGSTABAdjoint) -> None:
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


@pytest.mark.parametrize("max_iter", [2, 3, 4, 7, 20])
def test_max_iter_bounds_the_products(max_iter: int) -> None:
    matrix = torch.cat([random_matrix(2, 40, 0.99), random_matrix(1, 40, 0.01)])
    operator = MatrixOperator(matrix)
    answer = adjoint_solver(rtol=1e-13, max_iter=max_iter).solve(operator, random_cotangent(3, 40))
    assert (answer.iterations <= max_iter).all()
    assert not answer.converged[:2].any()


def test_two_products_an_iteration_and_two_more() -> None:
    """Two distinct eigenvalues of I - Φᵀ: two iterations are exact whatever the size."""
    matrix = torch.diag(torch.tensor([0.5] * 5 + [-0.3] * 5, dtype=torch.float64))
    answer = adjoint_solver(rtol=1e-12).solve(
        MatrixOperator(matrix, batch=3), random_cotangent(3, 10)
    )
    assert answer.converged.all()
    assert (answer.iterations <= 1 + 2 * 2 + 1).all()


def test_any_radius_on_small_systems() -> None:
    matrix, cotangent = random_matrix(4, 15, 2.5), random_cotangent(4, 15)
    answer = adjoint_solver(rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-8


def breakdown() -> tuple[Tensor, Tensor]:
    """I - Φᵀ = diag(2, -2) and a residual (-3, 3) of v = g: <r, (I - Φᵀ) r> = 0."""
    matrix = torch.diag(torch.tensor([-1.0, 3.0], dtype=torch.float64))
    return matrix, torch.tensor([[3.0, 1.0]], dtype=torch.float64)


def test_a_breakdown_is_mended_by_another_shadow_vector() -> None:
    matrix, cotangent = breakdown()
    answer = adjoint_solver().solve(MatrixOperator(matrix, batch=1), cotangent)
    assert answer.converged.all()
    assert torch.allclose(answer.adjoint, torch.tensor([[1.5, -0.5]], dtype=torch.float64))


def test_a_breakdown_up_to_rounding_is_one_as_well() -> None:
    """With 0.3 and 0.1 the inner product is 1e-17 and not 0: it must not be divided by."""
    matrix, cotangent = breakdown()
    solver = adjoint_solver()
    exact = solver.solve(MatrixOperator(matrix, batch=1), cotangent)
    operator = MatrixOperator(matrix, batch=1)
    cotangent = torch.tensor([[0.3, 0.1]], dtype=torch.float64)
    residual = operator.vjp(cotangent)
    slope = float((residual * (residual - operator.vjp(residual))).sum())
    assert 0 < abs(slope) < 1e-15
    rounded = solver.solve(operator, cotangent)
    assert rounded.converged.all()
    assert torch.equal(rounded.iterations, exact.iterations)


def test_more_products_never_leave_a_larger_residual() -> None:
    """The method's residual jumps up and down; the best iterate of a run is what counts."""
    matrix, cotangent = random_matrix(1, 20, 1.4), random_cotangent(1, 20)
    residuals = [
        float(adjoint_solver(rtol=0, max_iter=k).solve(MatrixOperator(matrix), cotangent).residual)
        for k in range(4, 40, 2)
    ]
    assert residuals == sorted(residuals, reverse=True)


def test_restarts_sets_how_many_are_granted() -> None:
    matrix, cotangent = breakdown()
    answer = adjoint_solver(restarts=0).solve(MatrixOperator(matrix, batch=1), cotangent)
    assert not answer.converged.any()
    assert torch.equal(answer.adjoint, cotangent)
    assert torch.allclose(answer.residual, torch.tensor([18.0], dtype=torch.float64).sqrt())


def test_a_breakdown_changes_no_bit_of_a_neighbour() -> None:
    matrix, cotangent = random_matrix(2, 2, 0.7), random_cotangent(2, 2)
    expected = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    matrix[1], cotangent[1:] = breakdown()
    answer = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert torch.equal(answer.adjoint[0], expected.adjoint[0])
    assert answer.iterations[0] == expected.iterations[0]


class Shaky(MatrixOperator):
    """Off by 1e-3 in products 2 to 9: the recursive residual of the first run lies."""

    def vjp(self, cotangent: Tensor) -> Tensor:
        exact = super().vjp(cotangent)
        wrong = 1e-3 * torch.flip(exact, (-1,))
        return exact + wrong if 2 <= self.products <= 9 else exact


def test_goes_on_where_the_recursive_residual_lied() -> None:
    matrix, cotangent = random_matrix(2, 8, 0.4), random_cotangent(2, 8)
    answer = adjoint_solver(rtol=1e-11).solve(Shaky(matrix), cotangent)
    assert answer.converged.all()
    true = adjoint_residual(matrix, answer.adjoint, cotangent)
    assert (true <= 1e-11 * cotangent.norm(dim=-1) * (1 + 1e-3)).all()


def test_skew_systems_are_reported() -> None:
    """I - Φᵀ skew: every stabilising step is 0, which BiCGSTAB cannot mend; nothing is made up."""
    skew = torch.kron(
        torch.eye(5, dtype=torch.float64),
        torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64),
    )
    matrix = (torch.eye(10, dtype=torch.float64) - skew).mT.expand(3, 10, 10)
    cotangent = random_cotangent(3, 10)
    answer = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    true = adjoint_residual(matrix, answer.adjoint, cotangent)
    assert torch.allclose(answer.residual, true, rtol=1e-6, atol=1e-12)
    assert torch.equal(answer.converged, true <= 1e-8 * cotangent.norm(dim=-1))


@pytest.mark.parametrize("solvable", [True, False])
def test_singular_systems(solvable: bool) -> None:
    matrix = random_matrix(4, 12, 0.6)
    matrix[:, :, 0] = 0
    matrix[:, 0, :] = 0
    matrix[:, 0, 0] = 1
    cotangent = random_cotangent(4, 12)
    cotangent[:, 0] = 0.0 if solvable else 1.0
    answer = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    assert answer.adjoint.isfinite().all()
    assert answer.converged.tolist() == [solvable] * 4
    if solvable:
        inner = reference_adjoint(matrix[:, 1:, 1:], cotangent[:, 1:])
        assert relative_error(answer.adjoint[:, 1:], inner) < 1e-6


def test_options_out_of_range_are_refused() -> None:
    for options in ({"max_iter": 0}, {"rtol": -1.0}, {"restarts": -1}, {"restart": 3}):
        with pytest.raises(ValidationError):
            BiCGSTABConfig.model_validate(options)
