"""Sparse systems: the dense answer on the pattern, to any order, and nothing with n² entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import foldcore as fc
from foldcore.kkt import KKTSystem
from foldcore.numerics.sparse import SparseMatrix

F64 = torch.float64
pytest.importorskip("foldcore_newton", reason="its step is folded")
pytest.importorskip("foldcore_gmres", reason="its adjoint")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def banded(n: int, lead: tuple[int, ...] = ()) -> SparseMatrix:
    """A symmetric tridiagonal matrix, positive definite."""
    i = torch.arange(n)
    rows, cols = torch.cat([i, i[:-1], i[1:]]), torch.cat([i, i[1:], i[:-1]])
    off = 0.4 * torch.tanh(draw(1, *lead, n - 1))
    values = torch.cat([1.5 + draw(2, *lead, n).abs(), off, off], -1)
    return SparseMatrix(rows, cols, (n, n), values)


def wide(k: int, n: int, lead: tuple[int, ...] = ()) -> SparseMatrix:
    """k rows of three entries each."""
    rows = torch.arange(k).repeat_interleave(3)
    cols = (torch.arange(3 * k) * 7 + rows) % n
    return SparseMatrix(rows, cols, (k, n), draw(3, *lead, 3 * k))


def masks(batch: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    return draw(4, batch, k) > 0, draw(5, batch, n) > 1.5


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("bounded", [False, True])
def test_the_sparse_answer_is_the_dense_one(lead: tuple[int, ...], bounded: bool) -> None:
    n, k, batch = 40, 9, 3
    H, C = banded(n, lead), wide(k, n, lead)
    active, fixed = masks(batch, k, n)
    fixed_or_none = fixed if bounded else None
    sparse = KKTSystem(H, C, active, fixed_or_none)
    dense = KKTSystem(H.to_dense(), C.to_dense(), active, fixed_or_none)
    right = draw(6, batch, dense.operator.size)
    assert torch.equal(sparse.factors.nullity, torch.zeros(batch, dtype=torch.long))
    assert (sparse.solve(right) - dense.solve(right)).abs().max() <= 1e-11
    assert sparse.residual(right, sparse.solve(right)).max() <= 1e-14


def test_a_row_stated_twice_is_solved_and_seen() -> None:
    n, batch = 30, 2
    H, row = banded(n), wide(4, n)
    twice = SparseMatrix(
        torch.cat([row.rows, 4 + torch.zeros(3, dtype=torch.long)]),
        torch.cat([row.cols, row.cols[:3]]),
        (5, n),
        torch.cat([row.values, 2 * row.values[:3]]),
    )
    active = torch.ones(batch, 5, dtype=torch.bool)
    active[1, 4] = False
    system = KKTSystem(H, twice, active)
    assert system.factors.nullity.tolist() == [1, 0]
    known = draw(7, batch, n + 5)
    right = system.operator.product(known)
    found = system.solve(right)
    assert (found - known)[:, :n].abs().max() <= 1e-11
    assert system.residual(right, found).max() <= 1e-14
    null = system.factors.null_vectors
    assert null.shape == (1, n + 5, 1)
    assert system.operator.take(torch.tensor([0])).product(null[..., 0]).abs().max() <= 1e-9


@pytest.mark.parametrize("lead", [(), (2,)])
def test_first_and_second_derivatives(lead: tuple[int, ...]) -> None:
    n, k, batch = 6, 2, 2
    H, C = banded(n, lead), wide(k, n, lead)
    active, fixed = torch.tensor([[True, True], [True, False]]), torch.zeros(2, n, dtype=torch.bool)
    fixed[1, 2] = True
    i = torch.arange(n)

    def solve(diagonal: Tensor, off: Tensor, values: Tensor, right: Tensor) -> Tensor:
        symmetric = SparseMatrix(H.rows, H.cols, H.shape, torch.cat([diagonal, off, off], -1))
        rows = SparseMatrix(C.rows, C.cols, C.shape, values)
        return KKTSystem(symmetric, rows, active, fixed).solve(right)

    assert torch.equal(H.rows[:n], i)
    parts = H.values[..., :n], H.values[..., n : 2 * n - 1], C.values, draw(8, batch, 2 * n + k)
    leaves = [part.clone().requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(solve, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(solve, leaves)


class Largest(TorchFunctionMode):
    """Records the largest result of any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple) else (result,):
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return result


def known_problem(
    n: int, k: int, batch: int
) -> tuple[fc.QuadraticProgram, dict[str, Tensor], fc.Solution]:
    """Return a sparse QP with rows Gx <= h whose solution is known by construction."""
    P, G = banded(n), wide(k, n)
    x = draw(9, batch, n)
    active = draw(10, batch, k) > 0
    mu = torch.where(active, 1.0, 0.0).double()
    h = fc.matvec(G, x) + torch.where(active, 0.0, 1.0)
    q = -fc.matvec(P, x) - fc.rmatvec(G, mu)
    zero = torch.zeros_like(x)
    solution = fc.Solution(x, (fc.Status.OPTIMAL,) * batch, fc.Duals(x[:, :0], mu, zero, zero))
    problem = fc.QuadraticProgram(
        P=fc.Sparse(P.rows, P.cols, P.shape, fc.Param(P.rows.numel(), name="P")),
        q=fc.Param(n),
        G=fc.Sparse(G.rows, G.cols, G.shape, fc.Param(G.rows.numel(), name="G")),
        h=fc.Param(k),
    )
    return problem, {"P": P.values, "G": G.values, "q": q, "h": h}, solution


def test_a_layer_on_sparse_data_makes_nothing_with_n_squared_entries() -> None:
    n, k, batch = 2000, 400, 2
    problem, values, solution = known_problem(n, k, batch)
    layer = fc.build({"problem": problem, "solver": fc.solver(lambda program: solution),
                      "rule": "newton", "adjoint": "gmres"})  # fmt: skip
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    with Largest() as seen:
        x = layer(**leaves)
        x.sum().backward()
    assert seen.numel < 20 * batch * (n + k)
    assert all(leaf.grad is not None for leaf in leaves.values())


@pytest.mark.parametrize("field", ["P", "G", "q", "h"])
def test_gradients_on_the_pattern_match_central_differences(field: str) -> None:
    """Along a random direction of the field, of the solution with the same rows active."""
    n, k, batch = 120, 30, 2
    problem, values, solution = known_problem(n, k, batch)
    layer = fc.build({"problem": problem, "solver": fc.solver(lambda program: solution),
                      "rule": "newton", "adjoint": "gmres"})  # fmt: skip
    leaves = {name: value.clone().requires_grad_(name == field) for name, value in values.items()}
    weights = draw(11, batch, n)
    (layer(**leaves) * weights).sum().backward()
    direction = draw(12, *values[field].shape)
    assert solution.duals is not None
    active = solution.duals.inequality > 0

    def value(step: float) -> float:
        moved = {**values, field: values[field] + step * direction}
        P, G = banded(n), wide(k, n)
        half = SparseMatrix(P.rows, P.cols, P.shape, moved["P"]).to_dense()
        rows = SparseMatrix(G.rows, G.cols, G.shape, moved["G"]).to_dense()
        total = 0.0
        for i in range(batch):
            held = rows[active[i]]
            m = len(held)
            top = torch.cat([(half + half.mT) / 2, held.mT], -1)
            matrix = torch.cat([top, torch.cat([held, torch.zeros(m, m, dtype=F64)], -1)])
            right = torch.cat([-moved["q"][i], moved["h"][i][active[i]]])
            total += float(torch.linalg.solve(matrix, right)[:n] @ weights[i])
        return total

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    grad = leaves[field].grad
    assert grad is not None
    assert abs(float((grad * direction).sum()) - slope) <= 1e-7 * (1 + abs(slope))
