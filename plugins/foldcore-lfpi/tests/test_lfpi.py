"""LFPI against dense solves, Neumann sums and its own reports."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from foldcore_lfpi import LFPIAdjoint, LFPIConfig
from foldcore_lfpi.anderson import Anderson
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

VARIANTS = [{}, {"anderson": 4}]


def adjoint_solver(**options: float) -> LFPIAdjoint:
    return LFPIAdjoint(LFPIConfig.model_validate(options))


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference).norm() / reference.norm())


@pytest.fixture(params=VARIANTS, ids=str)
def solver(request: pytest.FixtureRequest) -> LFPIAdjoint:
    return adjoint_solver(rtol=1e-12, **request.param)


@pytest.mark.parametrize(("batch", "size"), [(1, 1), (1, 7), (5, 1), (8, 30)])
def test_agrees_with_a_dense_solve(solver: LFPIAdjoint, batch: int, size: int) -> None:
    matrix, cotangent = random_matrix(batch, size, 0.7), random_cotangent(batch, size)
    answer = solver.solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10
    assert answer.adjoint.dtype == torch.float64
    assert answer.iterations.dtype == torch.int64
    assert answer.iterations.shape == answer.residual.shape == answer.converged.shape == (batch,)


def test_agrees_where_the_matrix_is_shared(solver: LFPIAdjoint) -> None:
    matrix, cotangent = random_matrix(1, 20, 0.7)[0], random_cotangent(6, 20)
    answer = solver.solve(MatrixOperator(matrix, batch=6), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10


def test_float32_stays_float32_and_converges_to_its_floor(solver: LFPIAdjoint) -> None:
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
        answer = adjoint_solver(rtol=1e-4, max_iter=40, **options).solve(
            MatrixOperator(matrix), cotangent
        )
        true = adjoint_residual(matrix, answer.adjoint, cotangent)
        assert torch.allclose(answer.residual, true, rtol=1e-6, atol=1e-12)
        tolerance = 1e-4 * cotangent.norm(dim=-1)
        assert torch.equal(answer.converged, answer.residual <= tolerance)


def test_a_zero_cotangent_gives_exactly_zero_without_a_product(solver: LFPIAdjoint) -> None:
    operator = MatrixOperator(random_matrix(3, 6, 0.9))
    answer = solver.solve(operator, torch.zeros(3, 6, dtype=torch.float64))
    assert torch.equal(answer.adjoint, torch.zeros(3, 6, dtype=torch.float64))
    assert answer.converged.all()
    assert operator.products == int(answer.iterations.sum()) == int(answer.residual.sum()) == 0


def test_a_zero_row_among_others_is_exactly_zero(solver: LFPIAdjoint) -> None:
    matrix, cotangent = random_matrix(3, 6, 0.7), random_cotangent(3, 6)
    cotangent[1] = 0
    answer = solver.solve(MatrixOperator(matrix), cotangent)
    assert torch.equal(answer.adjoint[1], torch.zeros(6, dtype=torch.float64))
    assert answer.converged.all()
    assert answer.iterations[1] == 0
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-10


def test_an_operator_declared_zero_needs_no_product(solver: LFPIAdjoint) -> None:
    cotangent = random_cotangent(3, 6)
    answer = solver.solve(ZeroOperator(cotangent), cotangent)
    assert torch.equal(answer.adjoint, cotangent)
    assert answer.converged.all()
    assert int(answer.iterations.sum()) == 0


def test_a_zero_matrix_that_is_not_declared_works_too(solver: LFPIAdjoint) -> None:
    cotangent = random_cotangent(3, 6)
    answer = solver.solve(MatrixOperator(torch.zeros(3, 6, 6, dtype=torch.float64)), cotangent)
    assert torch.equal(answer.adjoint, cotangent)
    assert answer.converged.all()
    assert answer.iterations.tolist() == [1] * 3


@pytest.mark.parametrize("exponent", [-900, -30, 600])
def test_no_cotangent_is_too_small_or_large(solver: LFPIAdjoint, exponent: int) -> None:
    """Squares of 2^-900 underflow: without scaling the norms would be 0 and all 'converged'."""
    matrix, cotangent = random_matrix(3, 12, 0.7), random_cotangent(3, 12)
    plain = solver.solve(MatrixOperator(matrix), cotangent)
    scaled = solver.solve(MatrixOperator(matrix), cotangent * 2.0**exponent)
    assert torch.equal(scaled.adjoint, plain.adjoint * 2.0**exponent)
    assert torch.equal(scaled.converged, plain.converged)


def test_a_batch_equals_its_samples(solver: LFPIAdjoint) -> None:
    matrix = torch.cat([random_matrix(2, 15, 0.5), random_matrix(2, 15, 0.8, seed=3)])
    cotangent = random_cotangent(4, 15)
    together = solver.solve(MatrixOperator(matrix), cotangent)
    for i in range(4):
        alone = solver.solve(MatrixOperator(matrix[i : i + 1]), cotangent[i : i + 1])
        assert relative_error(together.adjoint[i], alone.adjoint[0]) < 1e-12
        assert abs(int(together.iterations[i] - alone.iterations[0])) <= 1


@pytest.mark.parametrize("neighbour", ["harder", "divergent", "singular", "nan", "nan cotangent"])
def test_a_neighbour_changes_no_bit(solver: LFPIAdjoint, neighbour: str) -> None:
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
def test_no_product_is_asked_of_numbers_that_are_not_finite(solver: LFPIAdjoint, kind: str) -> None:
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


def test_the_result_carries_no_graph(solver: LFPIAdjoint) -> None:
    cotangent = random_cotangent(2, 5).requires_grad_()
    answer = solver.solve(MatrixOperator(random_matrix(2, 5, 0.5)), cotangent)
    assert not answer.adjoint.requires_grad


def test_copies_and_pickles(solver: LFPIAdjoint) -> None:
    matrix, cotangent = random_matrix(2, 5, 0.5), random_cotangent(2, 5)
    expected = solver.solve(MatrixOperator(matrix), cotangent)
    for twin in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert twin.config == solver.config
        assert torch.equal(twin.solve(MatrixOperator(matrix), cotangent).adjoint, expected.adjoint)


def test_every_option_is_described() -> None:
    for name, field in LFPIConfig.model_fields.items():
        assert field.description, name


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
    cotangent = random_cotangent(3, 10)
    answer = adjoint_solver(max_iter=1).solve(operator, cotangent)
    assert not answer.converged.any()
    assert operator.products == 1
    assert answer.iterations.tolist() == [1, 1, 1]
    assert torch.equal(answer.adjoint, cotangent), "only v₀ = g has been measured"


def test_iterates_are_the_neumann_sums() -> None:
    matrix, cotangent = random_matrix(4, 12, 0.3), random_cotangent(4, 12)
    term, total = cotangent, cotangent
    for k in range(8):
        operator = MatrixOperator(matrix)
        answer = adjoint_solver(rtol=0, max_iter=k + 1).solve(operator, cotangent)
        assert operator.products == k + 1
        assert relative_error(answer.adjoint, total) < 1e-12
        term = torch.einsum("bij,bi->bj", matrix, term)
        total = total + term


def test_a_window_of_zero_is_bitwise_the_plain_iteration() -> None:
    matrix, cotangent = random_matrix(4, 12, 0.3), random_cotangent(4, 12)
    iterate = cotangent
    operator = MatrixOperator(matrix)
    for _ in range(6):
        iterate = operator.vjp(iterate) + cotangent
    answer = adjoint_solver(rtol=0, anderson=0, max_iter=7).solve(operator, cotangent)
    assert torch.equal(answer.adjoint, iterate)


def test_later_products_do_not_touch_a_frozen_report() -> None:
    cotangent = random_cotangent(2, 6)
    cotangent[0] = torch.linspace(0.5, 1.5, 6)  # within [1, 2) at its largest: solved unscaled

    class Late(MatrixOperator):
        def vjp(self, cotangent: Tensor) -> Tensor:
            product = super().vjp(cotangent)
            if self.products > 60:
                product[0] = cotangent[0] - start  # a residual of 0 for any iterate
            return product

    start = cotangent[0]
    matrix = torch.cat([random_matrix(1, 6, 0.5), random_matrix(1, 6, 0.95)])
    answer = adjoint_solver().solve(Late(matrix), cotangent)
    assert answer.converged.all()
    assert answer.iterations[0] < 60 < answer.iterations[1]
    true = adjoint_residual(matrix, answer.adjoint, cotangent)
    assert torch.allclose(answer.residual, true, rtol=1e-6, atol=0)


def test_the_number_of_products_follows_the_spectral_radius() -> None:
    """‖r_k‖ = ρ^k ‖Φᵀg‖ exactly for a scaled orthogonal Φ."""
    orthogonal = torch.linalg.qr(random_matrix(2, 10, 1.0)).Q
    radius = torch.tensor([0.5, 0.9], dtype=torch.float64)
    cotangent = random_cotangent(2, 10)
    operator = MatrixOperator(orthogonal * radius[:, None, None])
    answer = adjoint_solver(rtol=1e-8).solve(operator, cotangent)
    expected = torch.ceil(-8 * torch.log(torch.tensor(10.0)) / torch.log(radius))
    assert (answer.iterations - expected).abs().max() <= 1


@pytest.mark.parametrize("anderson", [0, 3])
def test_divergence_is_reported_early_with_the_best_iterate(anderson: int) -> None:
    matrix = torch.full((2, 1, 1), 3.0, dtype=torch.float64)
    matrix[1] = 0.5
    cotangent = torch.ones(2, 1, dtype=torch.float64)
    answer = adjoint_solver(anderson=0).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.tolist() == [False, True]
    assert answer.iterations[0] < 20
    assert answer.adjoint[0] == 1.0
    assert answer.residual[0] == 3.0
    big = random_matrix(3, 30, 50.0)
    answer = adjoint_solver(anderson=anderson).solve(MatrixOperator(big), random_cotangent(3, 30))
    assert not answer.converged.any()
    assert answer.adjoint.isfinite().all()
    assert (answer.iterations < 100).all()


def test_a_radius_of_exactly_one_is_reported() -> None:
    matrix = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    answer = adjoint_solver(max_iter=50).solve(MatrixOperator(matrix), random_cotangent(2, 3))
    assert not answer.converged.any()
    assert answer.iterations.tolist() == [50, 50]
    assert answer.adjoint.isfinite().all()


def test_anderson_needs_fewer_products() -> None:
    matrix, cotangent = random_matrix(4, 40, 0.95), random_cotangent(4, 40)
    plain = adjoint_solver(rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    operator = MatrixOperator(matrix)
    fast = adjoint_solver(rtol=1e-10, anderson=20).solve(operator, cotangent)
    assert plain.converged.all()
    assert fast.converged.all()
    assert (fast.iterations * 3 < plain.iterations).all()
    assert operator.products == int(fast.iterations.max()), "one product an iteration"
    assert relative_error(fast.adjoint, reference_adjoint(matrix, cotangent)) < 1e-8


def test_anderson_with_a_full_window_is_exact_in_s_steps() -> None:
    """On a linear map the method is GMRES in disguise (Walker and Ni 2011, theorem 2.2)."""
    matrix, cotangent = random_matrix(3, 6, 0.9), random_cotangent(3, 6)
    answer = adjoint_solver(rtol=1e-9, anderson=6).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert (answer.iterations <= 6 + 2).all()


@pytest.mark.parametrize("fault", ["stands still", "runs away", "nan"])
def test_acceleration_that_does_not_help_is_dropped(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def proposal(self: Anderson, image: Tensor, gap: Tensor) -> Tensor:
        return {"stands still": image - gap, "runs away": 1e3 * image}.get(fault, image * torch.nan)

    matrix, cotangent = random_matrix(2, 12, 0.8), random_cotangent(2, 12)
    plain = adjoint_solver(rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    monkeypatch.setattr(Anderson, "_accelerated", proposal)
    answer = adjoint_solver(rtol=1e-10, anderson=3).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-9
    assert (answer.iterations - plain.iterations <= 10 + 2 * 3 + 2).all()


def test_anderson_on_an_exact_identity_does_not_invent_a_solution() -> None:
    """Differences of the residual are 0 there; divided by their rounding errors v would explode."""
    matrix = torch.eye(5, dtype=torch.float64).expand(2, 5, 5)
    answer = adjoint_solver(max_iter=60, anderson=2).solve(
        MatrixOperator(matrix), random_cotangent(2, 5)
    )
    assert not answer.converged.any()


def test_options_out_of_range_are_refused() -> None:
    for options in ({"max_iter": 0}, {"rtol": -1.0}, {"anderson": -1}, {"restart": 3}):
        with pytest.raises(ValidationError):
            LFPIConfig.model_validate(options)
