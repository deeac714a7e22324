"""Products and solves of matrices that are shared or per sample, dense or sparse."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from foldcore import (
    Param,
    ProblemError,
    Sparse,
    SparseMatrix,
    factor_square,
    largest_eigenvalue,
    matvec,
    rmatvec,
    solve_checked,
    solve_square,
    to_dense,
)
from foldcore.numerics import solving

ROWS, COLS = torch.tensor([0, 0, 2, 3, 2]), torch.tensor([1, 4, 0, 3, 0])
"""Of a (4, 5) matrix; row 1 and column 2 are empty, position (2, 0) is there twice."""


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def sparse(values: Tensor) -> SparseMatrix:
    return SparseMatrix(ROWS, COLS, (4, 5), values)


def dense_by_hand(values: Tensor) -> Tensor:
    out = torch.zeros(*values.shape[:-1], 4, 5, dtype=values.dtype)
    for k in range(values.shape[-1]):
        out[..., ROWS[k], COLS[k]] += values[..., k]
    return out


Pair = tuple[Tensor | SparseMatrix, Tensor]
"""A matrix, and the same matrix as a plain tensor."""


@pytest.fixture(params=["dense shared", "dense batched", "sparse shared", "sparse batched"])
def pair(request: pytest.FixtureRequest) -> Pair:
    kind, extent = request.param.split()
    batch = () if extent == "shared" else (3,)
    if kind == "dense":
        return draw(*batch, 4, 5), draw(*batch, 4, 5)
    values = draw(*batch, 5)
    return sparse(values), dense_by_hand(values)


def test_matvec_and_rmatvec(pair: Pair) -> None:
    matrix, plain = pair
    full = plain.expand(3, 4, 5)
    x, y = draw(3, 5, seed=1), draw(3, 4, seed=2)
    forward, backward = matvec(matrix, x), rmatvec(matrix, y)
    assert torch.allclose(forward, torch.einsum("bij,bj->bi", full, x), rtol=1e-13, atol=1e-14)
    assert torch.allclose(backward, torch.einsum("bij,bi->bj", full, y), rtol=1e-13, atol=1e-14)
    inner = ((forward * y).sum(), (x * backward).sum())
    assert torch.allclose(*inner, rtol=1e-13), "<Mx, y> = <x, Mᵀy>"


def test_to_dense(pair: Pair) -> None:
    matrix, plain = pair
    assert torch.allclose(to_dense(matrix), plain, rtol=1e-15)


@pytest.mark.parametrize("shared", [True, False])
def test_gradients_of_sparse_values_live_on_the_pattern(shared: bool) -> None:
    values = draw(5) if shared else draw(3, 5)
    values.requires_grad_()
    x = draw(3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, u: matvec(sparse(v), u), (values, x))
    y = draw(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, u: rmatvec(sparse(v), u), (values, y))


def test_sparse_transpose_symmetrisation_and_detaching() -> None:
    values = draw(3, 5).requires_grad_()
    square = SparseMatrix(ROWS, COLS, (5, 5), values)
    plain = square.to_dense()
    assert torch.equal(square.transpose().to_dense(), plain.mT)
    assert torch.allclose(square.symmetrised().to_dense(), (plain + plain.mT) / 2, rtol=1e-15)
    assert not square.detach().values.requires_grad
    assert square.batched
    assert not sparse(draw(5)).batched


@pytest.mark.parametrize(
    ("rows", "cols", "shape", "values", "fault"),
    [
        (torch.tensor([0, 4]), torch.tensor([0, 0]), (4, 5), torch.ones(2), "outside"),
        (torch.tensor([0, 1]), torch.tensor([0, -1]), (4, 5), torch.ones(2), "outside"),
        (torch.tensor([0, 1]), torch.tensor([0]), (4, 5), torch.ones(2), "one length"),
        (torch.tensor([0, 1]), torch.tensor([0, 1]), (4, 5), Param(3), "expected"),
        (torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), (4, 5), torch.ones(2), "int64"),
    ],
)
def test_faulty_sparse_declarations_are_refused(
    rows: Tensor, cols: Tensor, shape: tuple[int, int], values: Tensor | Param, fault: str
) -> None:
    with pytest.raises(ProblemError, match=fault):
        Sparse(rows, cols, shape, values)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [1, 6])
def test_solve_square(shared: bool, size: int) -> None:
    matrix = draw(size, size) if shared else draw(3, size, size)
    right = draw(3, size, seed=1)
    solution = solve_square(matrix, right)
    back = torch.einsum("bij,bj->bi", matrix.expand(3, size, size), solution)
    assert torch.allclose(back, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_solve_square_is_differentiable(shared: bool) -> None:
    matrix = (draw(4, 4) if shared else draw(3, 4, 4)).requires_grad_()
    right = draw(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(solve_square, (matrix, right))


def test_one_by_one_solves_equal_batched_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = draw(3, 9, 9).requires_grad_()
    right = draw(3, 9, seed=1)
    batched = solve_square(matrix, right)
    monkeypatch.setattr(solving, "_batched_lu_may_hang", lambda matrix: True)
    single = solve_square(matrix, right)
    assert torch.allclose(single, batched, rtol=1e-12)
    assert torch.autograd.gradcheck(solve_square, (matrix, right))


def test_a_singular_sample_harms_itself_alone() -> None:
    matrix, right = draw(3, 6, 6), draw(3, 6, seed=1)
    expected = solve_square(matrix, right)
    matrix[1] = 0
    solution = solve_square(matrix, right)
    assert not solution[1].isfinite().all()
    assert torch.equal(solution[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("kind", ["shared", "zero", "dependent rows"])
def test_solve_checked_tells_singular_samples(kind: str) -> None:
    matrix, right = draw(3, 6, 6), draw(3, 6, seed=1)
    expected = solve_square(matrix, right)
    solution, singular = solve_checked(matrix, right)
    assert torch.allclose(solution, expected, rtol=1e-12)
    assert singular.tolist() == [False, False, False]

    if kind == "shared":
        solution, singular = solve_checked(matrix[0], right)
        assert torch.allclose(solution, solve_square(matrix[0], right), rtol=1e-12)
        assert singular.tolist() == [False, False, False]
        broken = matrix[0].clone()
        broken[2] = broken[1] + broken[0]
        _, singular = solve_checked(broken, right)
        assert singular.tolist() == [True, True, True]
        return
    matrix[1, 2] = 0 if kind == "zero" else matrix[1, 1] + matrix[1, 0]
    solution, singular = solve_checked(matrix, right)
    assert singular.tolist() == [False, True, False]
    assert torch.equal(solution[1], torch.zeros(6, dtype=torch.float64))
    assert torch.allclose(solution[[0, 2]], expected[[0, 2]], rtol=1e-12)


def test_gradients_of_solve_checked_are_finite_beside_a_singular_sample() -> None:
    matrix, right = draw(3, 6, 6), draw(3, 6, seed=1)
    matrix[1] = 0
    matrix.requires_grad_()
    solution, _ = solve_checked(matrix, right)
    (gradient,) = torch.autograd.grad(solution.sum(), matrix)
    alone = matrix.detach()[[0, 2]].requires_grad_()
    (expected,) = torch.autograd.grad(solve_square(alone, right[[0, 2]]).sum(), alone)
    assert torch.equal(gradient[1], torch.zeros(6, 6, dtype=torch.float64))
    assert torch.allclose(gradient[[0, 2]], expected, rtol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_factorisation_serves_many_right_hand_sides(
    monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    matrix = draw(6, 6) if shared else draw(3, 6, 6)
    calls: list[Tensor] = []
    original = torch.linalg.lu_factor_ex
    monkeypatch.setattr(
        torch.linalg, "lu_factor_ex", lambda one: (calls.append(one), original(one))[1]
    )
    factors = factor_square(matrix)
    for seed in (1, 2, 3):
        right = draw(3, 6, seed=seed)
        expected = solve_square(matrix, right)
        assert torch.allclose(factors.solve(right), expected, rtol=1e-12, atol=1e-13)
    assert len(calls) == 1
    assert factors.singular.shape == matrix.shape[:-2]
    assert not factors.singular.any()


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_factorisation_is_differentiable_twice_through_several_solves(
    monkeypatch: pytest.MonkeyPatch, shared: bool, one_by_one: bool
) -> None:
    monkeypatch.setattr(solving, "_batched_lu_may_hang", lambda matrix: one_by_one)
    matrix = (draw(4, 4) if shared else draw(3, 4, 4)).requires_grad_()
    right = draw(3, 4, seed=1).requires_grad_()

    def twice(m: Tensor, r: Tensor) -> Tensor:
        factors = factor_square(m)
        return factors.solve(factors.solve(r) + r)

    assert torch.autograd.gradcheck(twice, (matrix, right))
    assert torch.autograd.gradgradcheck(twice, (matrix, right))


@pytest.mark.parametrize("one_by_one", [True, False])
def test_factorisation_of_a_singular_sample_harms_itself_alone(
    monkeypatch: pytest.MonkeyPatch, one_by_one: bool
) -> None:
    monkeypatch.setattr(solving, "_batched_lu_may_hang", lambda matrix: one_by_one)
    matrix, right = draw(3, 6, 6), draw(3, 6, seed=1)
    matrix[1, 2] = matrix[1, 1] + matrix[1, 0]
    matrix.requires_grad_()
    factors = factor_square(matrix)
    assert factors.singular.tolist() == [False, True, False]
    solution = factors.solve(right)
    assert torch.equal(solution[1], torch.zeros(6, dtype=torch.float64))
    alone = matrix.detach()[[0, 2]].requires_grad_()
    expected = solve_square(alone, right[[0, 2]])
    assert torch.allclose(solution[[0, 2]], expected, rtol=1e-12)
    (gradient,) = torch.autograd.grad(solution.square().sum(), matrix)
    (wanted,) = torch.autograd.grad(expected.square().sum(), alone)
    assert torch.equal(gradient[1], torch.zeros(6, 6, dtype=torch.float64))
    assert torch.allclose(gradient[[0, 2]], wanted, rtol=1e-10)


def test_factorisation_of_a_shared_singular_matrix_gives_zeros() -> None:
    matrix = torch.ones(3, 3, dtype=torch.float64)
    factors = factor_square(matrix)
    assert bool(factors.singular)
    assert torch.equal(factors.solve(draw(2, 3)), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    "solve", ["solve_square(m, r)", "solve_checked(m, r)[0]", "factor_square(m).solve(r)"]
)
def test_large_batches_with_two_threads_do_not_hang(solve: str) -> None:
    """oneMKL's batched LU prints "Parameter 6 was incorrect on entry to DLASWP" and never returns."""
    program = f"""
import torch
from foldcore import factor_square, solve_checked, solve_square
torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
m = torch.randn(64, 300, 300, generator=generator, dtype=torch.float64).requires_grad_()
r = torch.randn(64, 300, generator=generator, dtype=torch.float64)
y = {solve}
y.sum().backward()
worst = (torch.bmm(m, y.unsqueeze(-1)).squeeze(-1) - r).abs().max()
assert worst < 1e-8, worst
assert m.grad.isfinite().all()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=120, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "oneMKL" not in done.stdout + done.stderr


@pytest.mark.parametrize("shared", [True, False])
def test_largest_eigenvalue(shared: bool) -> None:
    orthogonal = torch.linalg.qr(draw(3, 12, 12)).Q
    spectrum = torch.linspace(0.1, 1.0, 12, dtype=torch.float64) * torch.tensor(
        [[2.0], [-7.0], [0.5]], dtype=torch.float64
    )
    spectrum[:, -2] = 0
    matrix = orthogonal @ (spectrum.unsqueeze(-1) * orthogonal.mT)
    estimate = largest_eigenvalue(matrix[1] if shared else matrix, rtol=1e-12)
    expected = torch.tensor([2.0, 7.0, 0.5], dtype=torch.float64)
    assert torch.allclose(estimate, expected[1] if shared else expected, rtol=1e-8)


def test_largest_eigenvalue_of_sparse_zero_and_size_one_matrices() -> None:
    index = torch.arange(3)
    values = torch.tensor([[1.0, -4.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    diagonal = SparseMatrix(index, index, (3, 3), values)
    estimate = largest_eigenvalue(diagonal, rtol=1e-12)
    assert torch.allclose(estimate, torch.tensor([4.0, 0.0], dtype=torch.float64), rtol=1e-8)
    assert largest_eigenvalue(SparseMatrix(index, index, (3, 3), values[0])).ndim == 0
    assert largest_eigenvalue(torch.full((1, 1), -3.0)) == 3.0


def test_largest_eigenvalue_repeats_and_carries_no_gradient() -> None:
    matrix = draw(2, 8, 8)
    matrix = (matrix + matrix.mT).requires_grad_()
    first, second = largest_eigenvalue(matrix), largest_eigenvalue(matrix)
    assert torch.equal(first, second)
    assert not first.requires_grad
