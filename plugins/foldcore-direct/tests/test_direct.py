"""The direct solve against references, singular samples and its own reports."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from foldcore_direct import DirectAdjoint, DirectConfig
from pydantic import ValidationError
from torch import Tensor

from foldcore import ZeroOperator
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


@pytest.mark.parametrize(("batch", "size"), [(1, 1), (1, 7), (5, 1), (8, 30)])
def test_agrees_with_a_dense_solve(solver: DirectAdjoint, batch: int, size: int) -> None:
    matrix, cotangent = random_matrix(batch, size, 0.7), random_cotangent(batch, size)
    answer = solver.solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10
    assert answer.adjoint.dtype == torch.float64
    assert answer.iterations.dtype == torch.int64
    assert answer.iterations.shape == answer.residual.shape == answer.converged.shape == (batch,)


def test_agrees_where_the_matrix_is_shared(solver: DirectAdjoint) -> None:
    matrix, cotangent = random_matrix(1, 20, 0.7)[0], random_cotangent(6, 20)
    answer = solver.solve(MatrixOperator(matrix, batch=6), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10


def test_float32_stays_float32_and_converges_to_its_floor(solver: DirectAdjoint) -> None:
    matrix = random_matrix(4, 20, 0.7, dtype=torch.float32)
    cotangent = random_cotangent(4, 20, dtype=torch.float32)
    answer = solver.solve(MatrixOperator(matrix), cotangent)
    assert answer.adjoint.dtype == answer.residual.dtype == torch.float32
    assert answer.converged.all(), "rtol below 50 eps means 50 eps"
    floor = 50 * torch.finfo(torch.float32).eps * cotangent.norm(dim=-1)
    assert (answer.residual <= floor).all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 5e-5


@pytest.mark.parametrize("radius", [0.5, 0.95, 1.3])
def test_the_residual_is_that_of_the_returned_adjoint(radius: float) -> None:
    matrix, cotangent = random_matrix(6, 25, radius), random_cotangent(6, 25)
    for options in VARIANTS:
        answer = adjoint_solver(rtol=1e-4, **options).solve(MatrixOperator(matrix), cotangent)
        true = adjoint_residual(matrix, answer.adjoint, cotangent)
        assert torch.allclose(answer.residual, true, rtol=1e-6, atol=1e-12)
        tolerance = 1e-4 * cotangent.norm(dim=-1)
        assert torch.equal(answer.converged, answer.residual <= tolerance)


def test_a_zero_cotangent_gives_exactly_zero_without_a_product(solver: DirectAdjoint) -> None:
    operator = MatrixOperator(random_matrix(3, 6, 0.9))
    answer = solver.solve(operator, torch.zeros(3, 6, dtype=torch.float64))
    assert torch.equal(answer.adjoint, torch.zeros(3, 6, dtype=torch.float64))
    assert answer.converged.all()
    assert operator.products == int(answer.iterations.sum()) == int(answer.residual.sum()) == 0


def test_a_zero_row_among_others_is_exactly_zero(solver: DirectAdjoint) -> None:
    matrix, cotangent = random_matrix(3, 6, 0.7), random_cotangent(3, 6)
    cotangent[1] = 0
    answer = solver.solve(MatrixOperator(matrix), cotangent)
    assert torch.equal(answer.adjoint[1], torch.zeros(6, dtype=torch.float64))
    assert answer.converged.all()
    assert answer.iterations[1] == 0
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10


def test_an_operator_declared_zero_needs_no_product(solver: DirectAdjoint) -> None:
    cotangent = random_cotangent(3, 6)
    answer = solver.solve(ZeroOperator(cotangent), cotangent)
    assert torch.equal(answer.adjoint, cotangent)
    assert answer.converged.all()
    assert int(answer.iterations.sum()) == 0


def test_a_zero_matrix_that_is_not_declared_works_too(solver: DirectAdjoint) -> None:
    cotangent = random_cotangent(3, 6)
    answer = solver.solve(MatrixOperator(torch.zeros(3, 6, 6, dtype=torch.float64)), cotangent)
    assert torch.equal(answer.adjoint, cotangent)
    assert answer.converged.all()
    assert answer.iterations.tolist() == [6 + 1] * 3


@pytest.mark.parametrize("exponent", [-900, -30, 600])
def test_no_cotangent_is_too_small_or_large(solver: DirectAdjoint, exponent: int) -> None:
    """Squares of 2^-900 underflow: without scaling the norms would be 0 and all 'converged'."""
    matrix, cotangent = random_matrix(3, 12, 0.7), random_cotangent(3, 12)
    plain = solver.solve(MatrixOperator(matrix), cotangent)
    scaled = solver.solve(MatrixOperator(matrix), cotangent * 2.0**exponent)
    assert torch.equal(scaled.adjoint, plain.adjoint * 2.0**exponent)
    assert torch.equal(scaled.converged, plain.converged)


def test_a_batch_equals_its_samples(solver: DirectAdjoint) -> None:
    matrix = torch.cat([random_matrix(2, 15, 0.5), random_matrix(2, 15, 0.8, seed=3)])
    cotangent = random_cotangent(4, 15)
    together = solver.solve(MatrixOperator(matrix), cotangent)
    for i in range(4):
        alone = solver.solve(MatrixOperator(matrix[i : i + 1]), cotangent[i : i + 1])
        assert relative_error(together.adjoint[i], alone.adjoint[0]) < 1e-12
        assert abs(int(together.iterations[i] - alone.iterations[0])) <= 1


@pytest.mark.parametrize("neighbour", ["harder", "divergent", "singular", "nan", "nan cotangent"])
def test_a_neighbour_changes_no_bit(solver: DirectAdjoint, neighbour: str) -> None:
    easy = random_matrix(3, 40, 0.2)
    easy[0] = random_matrix(1, 40, 0.6, seed=5)[0]
    cotangent = random_cotangent(3, 40)
    expected = solver.solve(MatrixOperator(easy), cotangent)

    matrix, changed = easy.clone(), cotangent.clone()
    if neighbour == "harder":
        matrix[1:] = random_matrix(2, 40, 0.97, seed=7)
    elif neighbour == "divergent":
        matrix[1:] = random_matrix(2, 40, 4.0, seed=7)
    elif neighbour == "singular":
        matrix[1:] = torch.eye(40, dtype=torch.float64)
    elif neighbour == "nan":
        matrix[1, 3, 4] = torch.nan
        matrix[2] = torch.inf
    else:
        changed[1, 0], changed[2, 0] = torch.nan, torch.inf
    answer = solver.solve(MatrixOperator(matrix), changed)
    for field in ("adjoint", "residual", "iterations", "converged"):
        assert torch.equal(getattr(answer, field)[0], getattr(expected, field)[0]), field
    assert answer.adjoint.isfinite().all()
    if neighbour in ("singular", "nan", "nan cotangent"):
        assert answer.converged.tolist() == [True, False, False]
        assert not answer.residual.isnan().any()


class Strict(MatrixOperator):
    """Refuses NaN and inf, as an update rule with an inner solver may."""

    def vjp(self, cotangent: Tensor) -> Tensor:
        assert cotangent.isfinite().all()
        return super().vjp(cotangent)


@pytest.mark.parametrize("kind", ["singular", "divergent", "nan", "inf"])
def test_no_product_is_asked_of_numbers_that_are_not_finite(
    solver: DirectAdjoint, kind: str
) -> None:
    matrix, cotangent = random_matrix(3, 6, 0.9, seed=3), random_cotangent(3, 6)
    if kind == "singular":
        matrix[1] = torch.eye(6, dtype=torch.float64)
    elif kind == "divergent":
        matrix[1] *= 1e3
    else:
        matrix[1, 2, 3] = float(kind)
    answer = solver.solve(Strict(matrix), cotangent)
    assert answer.converged[0]
    assert answer.converged[2]


def test_the_result_carries_no_graph(solver: DirectAdjoint) -> None:
    cotangent = random_cotangent(2, 5).requires_grad_()
    answer = solver.solve(MatrixOperator(random_matrix(2, 5, 0.5)), cotangent)
    assert not answer.adjoint.requires_grad


def test_copies_and_pickles(solver: DirectAdjoint) -> None:
    matrix, cotangent = random_matrix(2, 5, 0.5), random_cotangent(2, 5)
    expected = solver.solve(MatrixOperator(matrix), cotangent)
    for twin in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert twin.config == solver.config
        assert torch.equal(twin.solve(MatrixOperator(matrix), cotangent).adjoint, expected.adjoint)


def test_every_option_is_described() -> None:
    for name, field in DirectConfig.model_fields.items():
        assert field.description, name


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
