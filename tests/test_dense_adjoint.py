"""The assembled adjoint system: which samples it touches, and what it says of singular ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing import MatrixOperator, random_cotangent, random_matrix, reference_adjoint


def planted() -> tuple[Tensor, Tensor]:
    """Return a regular, a singular consistent, a singular inconsistent and a NaN sample."""
    matrix, cotangent = random_matrix(4, 6, 0.7), random_cotangent(4, 6)
    for i in (1, 2):
        matrix[i] = torch.diag(torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64))
    cotangent[1, 0], cotangent[2, 0] = 0, 1
    matrix[3, 0, 0] = torch.nan
    return matrix, cotangent


def test_each_kind_of_sample() -> None:
    matrix, cotangent = planted()
    everywhere = torch.ones(4, dtype=torch.bool)
    dense = fc.solve_dense(MatrixOperator(matrix), cotangent, everywhere)
    assert dense.singular.tolist() == [False, True, True, True]
    assert dense.products.tolist() == [6] * 4
    regular = reference_adjoint(matrix[:1], cotangent[:1])
    assert torch.allclose(dense.adjoint[:1], regular, rtol=1e-12)
    assert torch.allclose(dense.adjoint[1, 1:], 2 * cotangent[1, 1:])
    assert dense.adjoint[1:3, 0].abs().max() < 1e-14
    assert torch.equal(dense.adjoint[3], cotangent[3])
    assert dense.null_vector.norm(dim=-1).round().tolist() == [0, 1, 1, 0]


def test_only_the_samples_asked_for_are_touched() -> None:
    matrix, cotangent = planted()
    asked = torch.tensor([True, False, True, False])
    dense = fc.solve_dense(MatrixOperator(matrix), cotangent, asked)
    whole = fc.solve_dense(MatrixOperator(matrix), cotangent, torch.ones_like(asked))
    assert torch.equal(dense.adjoint[asked], whole.adjoint[asked])
    assert torch.equal(dense.adjoint[~asked], cotangent[~asked])
    assert dense.singular.tolist() == [False, False, True, False]
    assert dense.products.tolist() == [6, 0, 6, 0]
    again = dense.inverse(cotangent)
    assert torch.equal(again[~asked], torch.zeros(2, 6, dtype=torch.float64))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_each_step_of_refinement_multiplies_the_error(steps: int) -> None:
    matrix, cotangent = random_matrix(3, 6, 0.7), random_cotangent(3, 6)
    operator, system = MatrixOperator(matrix), fc.ScaledSystem.of(cotangent, 0.0, 0.0)

    def inexact(right: Tensor) -> Tensor:
        return (1 + 1e-4) * reference_adjoint(matrix, right)

    everywhere = torch.ones(3, dtype=torch.bool)
    start = system.started(operator).attempt(
        system, operator, inexact(system.cotangent), everywhere
    )
    refined = fc.refine_adjoint(operator, system, start, inexact, everywhere, steps)
    exact = reference_adjoint(matrix, system.cotangent)
    error = float((refined.adjoint - exact).norm() / exact.norm())
    assert 0.5 < error / 1e-4 ** (steps + 1) < 2
