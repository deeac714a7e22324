"""The scaled system, measured progress and the loop of cycles, apart from any one method."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing import MatrixOperator, adjoint_residual, random_cotangent, random_matrix


@pytest.mark.parametrize("exponent", [-900, 0, 600])
def test_scaling_changes_no_digit(exponent: int) -> None:
    cotangent = random_cotangent(3, 5) * 2.0**exponent
    system = fc.ScaledSystem.of(cotangent, 1e-8, 0.0)
    assert torch.equal(system.cotangent * system.scale[:, None], cotangent)
    assert ((system.cotangent.abs().amax(-1) >= 1) & (system.cotangent.abs().amax(-1) < 2)).all()
    answer = system.report(system.cotangent, 0 * system.tolerance, torch.zeros(3).long())
    assert torch.equal(answer.adjoint, cotangent)


def test_tolerance_is_the_larger_of_the_two_and_never_below_rounding() -> None:
    cotangent = random_cotangent(2, 5)
    norm = cotangent.norm(dim=-1)

    def tolerance(rtol: float, atol: float) -> Tensor:
        system = fc.ScaledSystem.of(cotangent, rtol, atol)
        return system.tolerance * system.scale

    assert torch.allclose(tolerance(1e-3, 0.0), 1e-3 * norm, rtol=1e-14)
    assert torch.allclose(tolerance(1e-3, 1.0), torch.ones(2, dtype=torch.float64))
    floor = 50 * torch.finfo(torch.float64).eps
    assert torch.allclose(tolerance(0.0, 0.0), floor * norm, rtol=1e-14)


def test_samples_that_are_not_finite_are_emptied_and_reported() -> None:
    cotangent = random_cotangent(3, 5)
    cotangent[1, 0] = torch.nan
    system = fc.ScaledSystem.of(cotangent, 1e-8, 0.0)
    assert system.finite.tolist() == system.nonzero.tolist() == [True, False, True]
    progress = system.untouched()
    answer = system.report(progress.adjoint, progress.norm, progress.products)
    assert answer.converged.tolist() == [True, False, True]
    assert torch.isinf(answer.residual[1])


def test_an_attempt_is_kept_only_where_it_is_asked_for_and_better() -> None:
    matrix, cotangent = random_matrix(3, 6, 0.5), random_cotangent(3, 6)
    operator, system = MatrixOperator(matrix), fc.ScaledSystem.of(cotangent, 1e-8, 0.0)
    start = system.started(operator)
    exact = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - matrix.mT, system.cotangent)
    trial = exact.clone()
    trial[2] = 1e3
    asked = torch.tensor([True, False, True])
    after = start.attempt(system, operator, trial, asked)
    assert torch.equal(after.adjoint[0], exact[0])
    assert torch.equal(after.adjoint[1:], start.adjoint[1:])
    assert after.products.tolist() == [2, 1, 2]
    true = adjoint_residual(matrix, after.adjoint, system.cotangent)
    assert torch.allclose(after.norm, true, atol=1e-14)


class Planted:
    """Cycles that do what a test tells them to, and count themselves."""

    def __init__(self, *corrections: Tensor, broken: bool = False) -> None:
        self.corrections, self.broken, self.calls = list(corrections), broken, 0

    def __call__(
        self, residual: Tensor, norm: Tensor, active: Tensor, budget: Tensor
    ) -> fc.KrylovCycle:
        self.calls += 1
        correction = self.corrections.pop(0) if self.corrections else torch.zeros_like(residual)
        broken = torch.full_like(active, self.broken)
        return fc.KrylovCycle(correction, active.to(torch.int64), broken)


def run(cycle: Planted, **options: int) -> fc.AdjointProgress:
    operator = MatrixOperator(torch.tensor([[[0.5]]], dtype=torch.float64))
    system = fc.ScaledSystem.of(torch.ones(1, 1, dtype=torch.float64), 1e-8, 0.0)
    limits = {"max_iter": 100, "shortest": 1, **options}
    return fc.run_krylov_cycles(operator, system, system.started(operator), cycle, **limits)


ONE = torch.ones(1, 1, dtype=torch.float64)


def test_cycles_end_where_the_measured_residual_meets_the_tolerance() -> None:
    cycle = Planted(0.9 * ONE, 0.1 * ONE)
    progress = run(cycle)
    assert cycle.calls == 2
    assert torch.allclose(progress.adjoint, 2 * ONE)
    assert progress.products.tolist() == [1 + 2 * 2]


def test_a_cycle_that_makes_things_worse_is_undone_and_is_the_last() -> None:
    cycle = Planted(-5 * ONE, ONE)
    progress = run(cycle)
    assert cycle.calls == 1
    assert torch.equal(progress.adjoint, ONE)
    assert float(progress.norm) == 0.5


def test_patience_grants_further_cycles() -> None:
    cycle = Planted(-5 * ONE, ONE)
    assert torch.equal(run(cycle, patience=1).adjoint, 2 * ONE)
    assert cycle.calls == 2


def test_a_broken_sample_keeps_what_it_has_and_stops() -> None:
    cycle = Planted(0.9 * ONE, 0.1 * ONE, broken=True)
    assert torch.allclose(run(cycle).adjoint, 1.9 * ONE)
    assert cycle.calls == 1


@pytest.mark.parametrize(("max_iter", "calls"), [(2, 0), (3, 1), (4, 1), (5, 2)])
def test_no_cycle_starts_that_could_not_be_measured(max_iter: int, calls: int) -> None:
    cycle = Planted(0.2 * ONE, 0.2 * ONE, 0.2 * ONE)
    assert run(cycle, max_iter=max_iter).products.item() <= max_iter
    assert cycle.calls == calls
