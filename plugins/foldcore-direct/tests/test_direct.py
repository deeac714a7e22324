"""The direct solve against references, singular samples and its own reports."""

from __future__ import annotations

import pytest
import torch
from foldcore_direct import DirectAdjoint, DirectConfig
from pydantic import ValidationError
from torch import Tensor

from foldcore.testing import (
    MatrixOperator,
    adjoint_residual,
    random_cotangent,
    random_matrix,
    reference_adjoint,
)

VARIANTS = [{}, {"refine": 0}]


def adjoint_solver(**options: float) -> DirectAdjoint:
    return DirectAdjoint(DirectConfig.model_validate(options))


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference).norm() / reference.norm())


@pytest.fixture(params=VARIANTS, ids=str)
def solver(request: pytest.FixtureRequest) -> DirectAdjoint:
    return adjoint_solver(rtol=1e-12, **request.param)


def test_a_zero_matrix_that_is_not_declared_works_too(solver: DirectAdjoint) -> None:
    cotangent = random_cotangent(3, 6)
    answer = solver.solve(MatrixOperator(torch.zeros(3, 6, 6, dtype=torch.float64)), cotangent)
    assert torch.equal(answer.adjoint, cotangent)
    assert answer.converged.all()
    assert answer.iterations.tolist() == [6 + 1] * 3


class Strict(MatrixOperator):
    """Refuses NaN and inf, as an update rule with an inner solver may."""

    def vjp(self, cotangent: Tensor) -> Tensor:
        assert cotangent.isfinite().all()
        return super().vjp(cotangent)


def test_rtol_and_atol_decide_what_counts_as_converged() -> None:
    matrix, cotangent = random_matrix(2, 20, 0.9), random_cotangent(2, 20)

    def converged(**options: float) -> list[bool]:
        operator = Inexact(matrix, error=1e-5)
        return adjoint_solver(refine=0, **options).solve(operator, cotangent).converged.tolist()

    assert converged(rtol=1e-3) == [True, True]
    assert converged(rtol=1e-7) == [False, False]
    assert converged(rtol=1e-7, atol=1e-2) == [True, True]


class Inexact(MatrixOperator):
    """Offers a direct way whose answers are off by a stated relative error."""

    def __init__(self, matrix: Tensor, error: float) -> None:
        super().__init__(matrix)
        self.error = error
        self.solves = 0

    def solve_transposed(self, cotangent: Tensor) -> Tensor:
        self.solves += 1
        return reference_adjoint(self.matrix, cotangent) * (1 + self.error)


class Known(MatrixOperator):
    """Knows its matrix, possibly a wrong one."""

    factor = 1.0

    def dense(self) -> Tensor:
        return self.factor * self.matrix.reshape(-1, self.size, self.size)


def test_a_direct_way_of_the_operator_is_used() -> None:
    matrix, cotangent = random_matrix(3, 10, 0.9), random_cotangent(3, 10)
    operator = Inexact(matrix, error=0.0)
    answer = adjoint_solver().solve(operator, cotangent)
    assert operator.solves == operator.products == 1, "one solve, one product to measure it"
    assert answer.iterations.tolist() == [1, 1, 1]
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-14


@pytest.mark.parametrize(("refine", "error"), [(0, 1e-4), (1, 1e-8), (2, 1e-12)])
def test_each_step_of_refinement_multiplies_the_error(refine: int, error: float) -> None:
    matrix, cotangent = random_matrix(3, 10, 0.9), random_cotangent(3, 10)
    answer = adjoint_solver(rtol=0, refine=refine).solve(Inexact(matrix, 1e-4), cotangent)
    reached = relative_error(answer.adjoint, reference_adjoint(matrix, cotangent))
    assert 0.5 * error < reached < 2 * error
    assert answer.iterations.tolist() == [1 + refine] * 3


def test_refinement_happens_only_where_it_is_needed() -> None:
    matrix, cotangent = random_matrix(3, 10, 0.9), random_cotangent(3, 10)
    operator = Inexact(matrix, error=1e-4)
    answer = adjoint_solver(rtol=1e-2, refine=2).solve(operator, cotangent)
    assert operator.solves == 1
    assert answer.converged.all()


def test_products_are_counted_where_the_matrix_is_assembled_from_them() -> None:
    matrix, cotangent = random_matrix(3, 10, 0.9), random_cotangent(3, 10)
    operator = MatrixOperator(matrix)
    answer = adjoint_solver().solve(operator, cotangent)
    assert operator.products == 10 + 1
    assert answer.iterations.tolist() == [11, 11, 11]
    known = Known(matrix)
    assert adjoint_solver().solve(known, cotangent).iterations.tolist() == [1, 1, 1]
    assert known.products == 1


def test_a_wrong_matrix_is_found_out_by_the_product() -> None:
    matrix, cotangent = random_matrix(3, 10, 0.9), random_cotangent(3, 10)
    operator = Known(matrix)
    operator.factor = 0.5
    answer = adjoint_solver(refine=0).solve(operator, cotangent)
    assert not answer.converged.any()
    true = adjoint_residual(matrix, answer.adjoint, cotangent)
    assert torch.allclose(answer.residual, true, rtol=1e-10)


def test_refinement_asks_no_product_of_a_sample_that_failed() -> None:
    class StrictAndWrong(Strict):
        def dense(self) -> Tensor:
            return 0.999 * self.matrix

    matrix, cotangent = random_matrix(3, 10, 0.9), random_cotangent(3, 10)
    matrix[1] = torch.nan
    answer = adjoint_solver(rtol=1e-6).solve(StrictAndWrong(matrix), cotangent)
    assert answer.converged.tolist() == [True, False, True]
    assert torch.equal(answer.adjoint[1], cotangent[1])


@pytest.mark.parametrize("shared", [False, True])
def test_singular_samples_get_the_solution_of_least_norm(shared: bool) -> None:
    """I - Φᵀ = diag(0, ½): v₀ is free; g₀ = 1 is out of reach."""
    matrix = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
    cotangent = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    operator = MatrixOperator(matrix if shared else matrix.repeat(3, 1, 1), batch=3)
    answer = adjoint_solver().solve(operator, cotangent)
    assert answer.converged.tolist() == [True, False, True]
    least = torch.tensor([[0.0, 2.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(answer.adjoint, least, atol=1e-14)
    assert torch.allclose(answer.residual, least.new_tensor([0.0, 1.0, 0.0]), atol=1e-14)
    assert answer.null_vector is not None
    assert torch.allclose(answer.null_vector.abs(), least.new_tensor([[1, 0], [0, 0], [0, 0]]))


def test_a_singular_sample_among_regular_ones() -> None:
    matrix, cotangent = random_matrix(3, 8, 0.9), random_cotangent(3, 8)
    left, right = random_cotangent(1, 8, seed=3)[0], random_cotangent(1, 8, seed=4)[0]
    regular = torch.eye(8, dtype=torch.float64) - matrix[1]
    # I - Φ minus a rank-one matrix that takes exactly one direction out of it.
    image = regular @ right
    matrix[1] = matrix[1] + torch.outer(image, left @ regular) / (left @ image)
    system = torch.eye(8, dtype=torch.float64) - matrix.mT
    cotangent[1] = system[1] @ cotangent[1]
    answer = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert answer.null_vector is not None
    assert (answer.null_vector.norm(dim=-1) > 0.5).tolist() == [False, True, False]
    null = answer.null_vector[1]
    assert (system[1] @ null).norm() < 1e-12
    assert abs(float(null @ answer.adjoint[1])) < 1e-10, "least norm is orthogonal to null vectors"
    others = reference_adjoint(matrix[[0, 2]], cotangent[[0, 2]])
    assert relative_error(answer.adjoint[[0, 2]], others) < 1e-12


def test_regular_samples_report_no_null_vector() -> None:
    answer = adjoint_solver().solve(
        MatrixOperator(random_matrix(3, 8, 0.9)), random_cotangent(3, 8)
    )
    assert answer.null_vector is None


def test_a_direct_way_that_returns_nan_is_reported() -> None:
    matrix, cotangent = random_matrix(3, 10, 0.9), random_cotangent(3, 10)
    answer = adjoint_solver().solve(Inexact(matrix, error=torch.nan), cotangent)
    assert not answer.converged.any()
    assert answer.adjoint.isfinite().all()
    assert answer.residual.isfinite().all()


def test_a_huge_answer_does_not_hide_its_residual() -> None:
    """With v along the null vector, g - v + Φᵀv would round to 0; the residual is ‖g‖."""

    class Huge(MatrixOperator):
        def solve_transposed(self, cotangent: Tensor) -> Tensor:
            return 1e20 * torch.ones_like(cotangent)

    cotangent = random_cotangent(2, 4)
    matrix = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    answer = adjoint_solver().solve(Huge(matrix), cotangent)
    assert not answer.converged.any()
    assert torch.allclose(answer.residual, cotangent.norm(dim=-1), rtol=1e-12)


def test_any_radius_will_do() -> None:
    matrix, cotangent = random_matrix(4, 15, 30.0), random_cotangent(4, 15)
    answer = adjoint_solver(rtol=1e-11).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10


def test_options_out_of_range_are_refused() -> None:
    for options in ({"max_iter": 10}, {"rtol": -1.0}, {"refine": -1}):
        with pytest.raises(ValidationError):
            DirectConfig.model_validate(options)
