"""Conjugate gradients against dense solves, on both systems, and their refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
from foldcore_cg import CGAdjoint, CGConfig
from pydantic import ValidationError
from torch import Tensor

from foldcore import UnsupportedError
from foldcore.testing import (
    MatrixOperator,
    adjoint_residual,
    random_cotangent,
    random_matrix,
    reference_adjoint,
)

VARIANTS = [{"normal": True}]


def adjoint_solver(**options: float) -> CGAdjoint:
    return CGAdjoint(CGConfig.model_validate(options))


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference).norm() / reference.norm())


@pytest.fixture(params=VARIANTS, ids=str)
def solver(request: pytest.FixtureRequest) -> CGAdjoint:
    return adjoint_solver(rtol=1e-12, **request.param)


def test_a_zero_matrix_that_is_not_declared_works_too(solver: CGAdjoint) -> None:
    cotangent = random_cotangent(3, 6)
    answer = solver.solve(MatrixOperator(torch.zeros(3, 6, 6, dtype=torch.float64)), cotangent)
    assert torch.equal(answer.adjoint, cotangent)
    assert answer.converged.all()
    assert answer.iterations.tolist() == [1] * 3


def test_rtol_and_atol_decide_what_counts_as_converged() -> None:
    matrix, cotangent = random_matrix(2, 20, 0.9), random_cotangent(2, 20)
    loose = adjoint_solver(normal=True, rtol=1e-2).solve(MatrixOperator(matrix), cotangent)
    tight = adjoint_solver(normal=True, rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    absolute = adjoint_solver(normal=True, rtol=1e-10, atol=1e-2).solve(
        MatrixOperator(matrix), cotangent
    )
    for answer in (loose, tight, absolute):
        assert answer.converged.all()
    assert (loose.iterations < tight.iterations).all()
    assert (absolute.iterations < tight.iterations).all()
    assert (absolute.residual <= 1e-2).all()
    assert (loose.residual > 1e-10 * cotangent.norm(dim=-1)).all()


def symmetric_matrix(batch: int, size: int, radius: float, *, seed: int = 0) -> Tensor:
    """Return symmetric Φ with ρ(Φ) = radius, so that I - Φ is definite for radius < 1."""
    matrix = random_matrix(batch, size, 1.0, seed=seed)
    matrix = matrix + matrix.mT
    largest = torch.linalg.eigvalsh(matrix).abs().amax(-1)
    return matrix * (radius / largest)[:, None, None]


class Symmetric(MatrixOperator):
    symmetric = True


class WithoutForward(MatrixOperator):
    """Has no product with Φ."""

    def jvp(self, tangent: Tensor) -> Tensor:
        raise UnsupportedError("jvp: differentiable only once; use vjp alone.")


@pytest.mark.parametrize(("batch", "size"), [(1, 1), (1, 7), (5, 1), (8, 30)])
def test_symmetric_systems_agree_with_a_dense_solve(batch: int, size: int) -> None:
    matrix, cotangent = symmetric_matrix(batch, size, 0.9), random_cotangent(batch, size)
    operator = Symmetric(matrix)
    answer = adjoint_solver(rtol=1e-12).solve(operator, cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10
    assert operator.forward_products == 0
    assert operator.products == int(answer.iterations.max())


def test_s_steps_are_enough_where_the_matrix_is_definite() -> None:
    matrix, cotangent = symmetric_matrix(4, 12, 0.9), random_cotangent(4, 12)
    answer = adjoint_solver(rtol=1e-10).solve(Symmetric(matrix), cotangent)
    assert answer.converged.all()
    assert (answer.iterations <= 12 + 2).all()


def test_far_below_minus_one_is_no_obstacle() -> None:
    """LFPI diverges for ρ(Φ) > 1, but I - Φ is definite as long as no eigenvalue exceeds 1."""
    matrix = -symmetric_matrix(3, 12, 1.0) @ symmetric_matrix(3, 12, 1.0)
    matrix = 30 * (matrix + matrix.mT) / 2
    values = torch.linalg.eigvalsh(matrix)
    matrix = matrix - values.amax(-1)[:, None, None].clamp_min(0) * torch.eye(12).double()
    cotangent = random_cotangent(3, 12)
    answer = adjoint_solver(rtol=1e-10).solve(Symmetric(matrix), cotangent)
    assert torch.linalg.eigvalsh(matrix).abs().amax(-1).min() > 2
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-8


def test_undeclared_symmetry_is_refused() -> None:
    matrix, cotangent = symmetric_matrix(2, 6, 0.5), random_cotangent(2, 6)
    with pytest.raises(UnsupportedError, match=r"not declared symmetric.*normal: true"):
        adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    with pytest.raises(UnsupportedError, match="not declared symmetric"):
        adjoint_solver().solve(MatrixOperator(matrix), torch.zeros_like(cotangent))


def test_an_indefinite_symmetric_system_is_reported_and_normal_solves_it() -> None:
    matrix, cotangent = symmetric_matrix(3, 12, 3.0), random_cotangent(3, 12)
    easy = symmetric_matrix(1, 12, 0.5)[0]
    expected = adjoint_solver().solve(Symmetric(easy.expand(3, 12, 12)), cotangent)
    matrix[1] = easy
    answer = adjoint_solver().solve(Symmetric(matrix), cotangent)
    assert answer.converged.tolist() == [False, True, False]
    assert torch.equal(answer.adjoint[1], expected.adjoint[1])
    true = adjoint_residual(matrix, answer.adjoint, cotangent)
    assert torch.allclose(answer.residual, true, rtol=1e-6, atol=1e-12)
    answer = adjoint_solver(normal=True, rtol=1e-10).solve(Symmetric(matrix), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-8


def test_the_normal_equations_need_both_products() -> None:
    matrix, cotangent = random_matrix(2, 6, 0.5), random_cotangent(2, 6)
    operator = MatrixOperator(matrix)
    answer = adjoint_solver(normal=True).solve(operator, cotangent)
    assert operator.forward_products > 0
    assert operator.products + operator.forward_products == int(answer.iterations.max())
    with pytest.raises(UnsupportedError, match=r"cg: normal: true .*only once.*gmres"):
        adjoint_solver(normal=True).solve(WithoutForward(matrix), cotangent)


def test_a_wrong_forward_product_is_found_out() -> None:
    class Wrong(MatrixOperator):
        def jvp(self, tangent: Tensor) -> Tensor:
            return -2 * super().jvp(tangent).flip(-1)

    matrix, cotangent = random_matrix(2, 30, 0.9), random_cotangent(2, 30)
    answer = adjoint_solver(normal=True, max_iter=200).solve(Wrong(matrix), cotangent)
    true = adjoint_residual(matrix, answer.adjoint, cotangent)
    assert not answer.converged.any()
    assert torch.allclose(answer.residual, true, rtol=1e-6)


def test_the_residual_of_the_normal_equations_falls_monotonically() -> None:
    matrix, cotangent = random_matrix(1, 20, 1.4), random_cotangent(1, 20)
    residuals = [
        float(
            adjoint_solver(normal=True, rtol=0, max_iter=k)
            .solve(MatrixOperator(matrix), cotangent)
            .residual
        )
        for k in range(4, 40, 2)
    ]
    assert all(after <= before for before, after in itertools.pairwise(residuals))


@pytest.mark.parametrize("solvable", [True, False])
def test_singular_systems_by_the_normal_equations(solvable: bool) -> None:
    """I - Φᵀ = diag(0, ½, ¼, ½): g₀ = 1 is out of reach, and no residual is below 1."""
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.75, 0.5], dtype=torch.float64))
    cotangent = torch.tensor([[0.0 if solvable else 1.0, 2, -1, 3]], dtype=torch.float64)
    answer = adjoint_solver(normal=True).solve(MatrixOperator(matrix, batch=1), cotangent)
    assert answer.converged.tolist() == [solvable]
    assert torch.allclose(answer.adjoint[:, 1:], cotangent.new_tensor([[4.0, -4, 6]]), rtol=1e-7)
    assert abs(float(answer.residual) - (0.0 if solvable else 1.0)) < 1e-6
    assert answer.iterations <= 1 + 2 * 3 + 4, "least squares are seen to be reached"


def test_a_residual_that_no_step_can_reduce_is_seen_at_once() -> None:
    """Φ = I: (I - Φ) r = 0 by the first product with it."""
    operator = MatrixOperator(torch.eye(3, dtype=torch.float64), batch=2)
    answer = adjoint_solver(normal=True).solve(operator, random_cotangent(2, 3))
    assert not answer.converged.any()
    assert answer.iterations.tolist() == [1 + 1 + 1] * 2


def test_max_iter_one_reports_non_convergence() -> None:
    operator = MatrixOperator(random_matrix(3, 10, 0.9))
    answer = adjoint_solver(normal=True, max_iter=1).solve(operator, random_cotangent(3, 10))
    assert not answer.converged.any()
    assert operator.products == 1
    assert operator.forward_products == 0
    assert answer.iterations.tolist() == [1, 1, 1]


@pytest.mark.parametrize("max_iter", [2, 3, 4, 7, 20])
def test_max_iter_bounds_the_products(max_iter: int) -> None:
    matrix = torch.cat([random_matrix(2, 40, 0.99), random_matrix(1, 40, 0.01)])
    operator = MatrixOperator(matrix)
    answer = adjoint_solver(normal=True, rtol=1e-13, max_iter=max_iter).solve(
        operator, random_cotangent(3, 40)
    )
    assert (answer.iterations <= max_iter).all()
    assert not answer.converged[:2].any()


def test_options_out_of_range_are_refused() -> None:
    for options in ({"max_iter": 0}, {"rtol": -1.0}, {"normal": 3}, {"restart": 3}):
        with pytest.raises(ValidationError):
            CGConfig.model_validate(options)
