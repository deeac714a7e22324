"""LFPI against dense solves, Neumann sums and its own reports."""

from __future__ import annotations

import pytest
import torch
from foldcore_lfpi import LFPIAdjoint, LFPIConfig
from foldcore_lfpi.anderson import Anderson
from pydantic import ValidationError
from torch import Tensor

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


def test_a_zero_matrix_that_is_not_declared_works_too(solver: LFPIAdjoint) -> None:
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
