"""Least-norm solutions of singular systems, their rank decision and their null vectors."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing import random_cotangent, random_matrix


def deficient(batch: int, size: int, rank: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return nonsymmetric matrices of the given rank with singular values between 1 and 2."""
    left = torch.linalg.qr(random_matrix(batch, size, 1.0, seed=1)).Q[:, :, :rank]
    right = torch.linalg.qr(random_matrix(batch, size, 1.0, seed=2)).Q[:, :, :rank]
    values = torch.linspace(1, 2, rank, dtype=torch.float64)
    return ((left * values) @ right.mT).to(dtype)


@pytest.mark.parametrize("rank", [0, 1, 5, 8])
def test_agrees_with_the_pseudoinverse(rank: int) -> None:
    matrix, right = deficient(3, 8, rank), random_cotangent(3, 8)
    found = fc.minimum_norm(matrix, right)
    expected = (torch.linalg.pinv(matrix) @ right.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(found.solution, expected, rtol=1e-12, atol=1e-13)
    assert found.rank.tolist() == [rank] * 3


def test_null_vectors_are_random_unit_vectors_of_the_null_space() -> None:
    matrix = deficient(3, 8, 5)
    found = fc.minimum_norm(matrix, random_cotangent(3, 8))
    assert torch.allclose(found.null_vector.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    assert torch.einsum("bij,bj->bi", matrix, found.null_vector).norm() < 1e-13
    assert (found.null_vector * found.solution).sum(-1).abs().max() < 1e-12
    full = fc.minimum_norm(deficient(3, 8, 8), random_cotangent(3, 8))
    assert torch.equal(full.null_vector, torch.zeros(3, 8, dtype=torch.float64))


def test_a_shared_matrix_serves_every_right_hand_side() -> None:
    matrix, right = deficient(1, 6, 4)[0], random_cotangent(5, 6)
    shared = fc.minimum_norm(matrix, right)
    each = fc.minimum_norm(matrix.expand(5, 6, 6), right)
    assert shared.null_vector.shape == (5, 6)
    assert torch.allclose(shared.solution, each.solution, rtol=1e-12)
    assert torch.equal(shared.rank, each.rank)


def test_a_matrix_that_is_not_finite_harms_itself_alone() -> None:
    matrix, right = deficient(3, 6, 4), random_cotangent(3, 6)
    expected = fc.minimum_norm(matrix, right)
    matrix[1, 2, 3] = torch.nan
    found = fc.minimum_norm(matrix, right)
    assert torch.equal(found.solution[[0, 2]], expected.solution[[0, 2]])
    assert found.rank.tolist() == [4, -1, 4]
    assert torch.equal(found.solution[1], torch.zeros(6, dtype=torch.float64))
    assert torch.equal(found.null_vector[1], torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whatever_solve_checked_takes_for_singular_is_rank_deficient(dtype: torch.dtype) -> None:
    """And what it takes for regular with a margin is not: the two decisions fit together."""
    eps = torch.finfo(dtype).eps
    left = torch.linalg.qr(random_matrix(1, 8, 1.0, seed=1)).Q[0]
    right = torch.linalg.qr(random_matrix(1, 8, 1.0, seed=2)).Q[0]
    for exponent in range(1, 17):
        smallest = 10.0**-exponent
        values = torch.tensor([1.0] * 7 + [smallest], dtype=torch.float64)
        matrix = ((left * values) @ right.mT).to(dtype)[None]
        vector = random_cotangent(1, 8, dtype=dtype)
        singular = bool(fc.solve_checked(matrix, vector)[1])
        rank = int(fc.minimum_norm(matrix, vector).rank)
        assert rank == 7 or not singular, exponent
        assert rank == 8 or smallest < eps**0.5, exponent


def test_large_batches_do_not_hang_with_two_threads() -> None:
    source = """
import torch, foldcore as fc
torch.set_num_threads(2)
matrix = torch.zeros(4, 200, 200, dtype=torch.float64)
matrix[:, :150, :150] = torch.randn(4, 150, 150, dtype=torch.float64)
assert fc.minimum_norm(matrix, torch.ones(4, 200, dtype=torch.float64)).rank.tolist() == [150] * 4
"""
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)
