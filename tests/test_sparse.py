"""Sparse data: products equal the dense ones, gradients live on the pattern, constants move along."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import random_qp


def random_pattern(rows: int, cols: int, nnz: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(rows, (nnz,), generator=generator),
        torch.randint(cols, (nnz,), generator=generator),
    )


@pytest.mark.parametrize("batched", [False, True])
def test_products_equal_those_of_the_dense_matrix(batched: bool) -> None:
    rows, cols = random_pattern(4, 6, 12)  # with repeated positions, which add up
    values = torch.randn(*((3,) if batched else ()), 12, dtype=torch.float64)
    matrix = fc.SparseMatrix(rows, cols, (4, 6), values)
    x = torch.randn(3, 6, dtype=torch.float64)
    y = torch.randn(3, 4, dtype=torch.float64)
    dense = fc.to_dense(matrix)
    assert dense.shape == ((3, 4, 6) if batched else (4, 6))
    assert torch.allclose(fc.matvec(matrix, x), fc.matvec(dense, x), rtol=1e-13, atol=1e-13)
    assert torch.allclose(fc.rmatvec(matrix, y), fc.rmatvec(dense, y), rtol=1e-13, atol=1e-13)
    square = fc.SparseMatrix(rows, rows, (4, 4), values)
    symmetric = fc.to_dense(square.symmetrised())
    expected = (fc.to_dense(square) + fc.to_dense(square).mT) / 2
    assert torch.allclose(symmetric, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("rows", "cols", "values", "message"),
    [
        ([0, 5], [0, 0], 2, "outside the shape"),
        ([0, 1], [0], 2, "vectors of one length"),
        ([0, 1], [0, 1], 3, "values have shape"),
    ],
)
def test_wrong_patterns_are_named(
    rows: list[int], cols: list[int], values: int, message: str
) -> None:
    with pytest.raises(fc.ProblemError, match=message):
        fc.Sparse(torch.tensor(rows), torch.tensor(cols), (2, 2), torch.ones(values))


@pytest.mark.parametrize("rule", ["newton", "pgd"])
def test_gradients_of_sparse_data_are_the_dense_ones_on_the_pattern(rule: str) -> None:
    pytest.importorskip("foldcore_osqp", reason="solves with foldcore-osqp")
    pytest.importorskip("foldcore_gmres", reason="folds with foldcore-gmres")
    pytest.importorskip(f"foldcore_{rule}", reason=f"uses foldcore-{rule}")
    n = 6
    data = random_qp(3, n, 1)
    rows, cols = (
        index.flatten() for index in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    )
    kept = (data["P"].abs() > 0.15).flatten() | (rows == cols)
    rows, cols = rows[kept], cols[kept]
    P = torch.zeros(n, n, dtype=torch.float64)
    P[rows, cols] = data["P"][rows, cols]
    P = P + 2 * torch.eye(n, dtype=torch.float64)
    shared = {"q": fc.Param(n), "lower": data["lower"], "upper": data["upper"], "b": fc.Param(1)}
    a_rows, a_cols = torch.zeros(n, dtype=torch.int64), torch.arange(n)
    sparse = fc.QuadraticProgram(
        P=fc.Sparse(rows, cols, (n, n), fc.Param(len(rows), psd=True)),
        A=fc.Sparse(a_rows, a_cols, (1, n), data["A"][0]),
        **shared,
    )
    dense = fc.QuadraticProgram(P=fc.Param(n, n, psd=True), A=data["A"], **shared)
    inner = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
    config = {"solver": "osqp", "adjoint": {"kind": "gmres", "rtol": 1e-12},
              "rule": rule if rule == "newton" else {"kind": "pgd", "inner": inner}}  # fmt: skip
    weights = torch.linspace(-1, 1, n, dtype=torch.float64)
    found = []
    for problem, value in ((sparse, P[rows, cols]), (dense, P)):
        params = {"P": value.clone(), "q": data["q"].clone(), "b": data["b"].clone()}
        for param in params.values():
            param.requires_grad_()
        (fc.build({"problem": problem, **config})(**params) * weights).sum().backward()
        found.append({name: param.grad for name, param in params.items()})
    on_pattern, full = found
    assert on_pattern["P"].shape == rows.shape
    assert torch.allclose(on_pattern["P"], full["P"][rows, cols], rtol=1e-7, atol=1e-9)
    assert torch.allclose(on_pattern["q"], full["q"], rtol=1e-7, atol=1e-9)
    assert torch.allclose(on_pattern["b"], full["b"], rtol=1e-7, atol=1e-9)
