"""One definiteness test for torch, numpy and scipy: the same verdict on both sides of rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

import foldcore as fc
from foldcore import (
    factor_definite,
    is_positive_definite,
    is_positive_semidefinite,
    solve_factored,
)

FORMS: dict[str, Callable[[Tensor], object]] = {
    "torch": lambda matrix: matrix,
    "numpy": lambda matrix: matrix.numpy(),
    "csc": lambda matrix: scipy.sparse.csc_matrix(matrix.numpy()),
    "coo": lambda matrix: scipy.sparse.coo_matrix(matrix.numpy()),
}


def spectral(values: list[float], *, scale: float = 1.0) -> Tensor:
    """Return Q diag(values) Qᵀ for a random orthogonal Q."""
    n = len(values)
    generator = torch.Generator().manual_seed(n)
    draw = torch.randn(n, n, generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(draw).Q
    matrix = (q * torch.tensor(values, dtype=torch.float64)) @ q.mT
    return scale * (matrix + matrix.mT) / 2


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("form", FORMS)
def test_semidefinite_up_to_rounding(form: str, scale: float) -> None:
    given = FORMS[form]
    verdicts = {
        "definite": ([3.0, 2.0, 1.0, 0.5], True),
        "singular": ([3.0, 2.0, 0.0, 0.0, 0.0, 0.0], True),
        "of rank one": ([1.0, 0.0, 0.0, 0.0, 0.0], True),
        "rounding below zero": ([1.0, 0.5, -1e-15], True),
        "a millionth below zero": ([1.0, 0.5, -1e-6], False),
        "indefinite": ([1.0, -1.0, 2.0], False),
        "negative": ([-1.0, -2.0], False),
    }
    for name, (values, expected) in verdicts.items():
        assert bool(is_positive_semidefinite(given(spectral(values, scale=scale)))) is expected, (
            name
        )


@pytest.mark.parametrize("form", FORMS)
def test_semidefinite_without_a_diagonal_to_eliminate_with(form: str) -> None:
    given = FORMS[form]
    hollow = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert not bool(is_positive_semidefinite(given(hollow)))
    assert bool(is_positive_semidefinite(given(torch.zeros(3, 3, dtype=torch.float64))))
    assert bool(is_positive_semidefinite(given(torch.zeros(0, 0, dtype=torch.float64))))
    skew = torch.tensor([[1.0, 5.0], [-5.0, 1.0]], dtype=torch.float64)
    assert bool(is_positive_semidefinite(given(skew))), "its symmetric part is the identity"
    broken = torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]], dtype=torch.float64)
    assert not bool(is_positive_semidefinite(given(broken)))


def test_a_sparse_form_with_explicit_zeros_and_a_long_band() -> None:
    n = 400
    band = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n), format="csc")
    assert is_positive_semidefinite(band)
    # The smallest eigenvalue is 2 - 2·cos(π/(n+1)), about 6e-5.
    smallest = 2 - 2 * np.cos(np.pi / (n + 1))
    assert is_positive_semidefinite(band - 0.99 * smallest * scipy.sparse.identity(n))
    assert not is_positive_semidefinite(band - 1.01 * smallest * scipy.sparse.identity(n))
    index = np.array([0, 1])
    zeros = scipy.sparse.csc_matrix((np.zeros(2), (index, index)), shape=(2, 2))
    assert is_positive_semidefinite(zeros)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_has_a_verdict_for_each_sample(dtype: torch.dtype) -> None:
    values = ([1.0, 2.0, 3.0], [1.0, 0.0, 3.0], [1.0, -0.1, 3.0], [0.0, 0.0, 0.0])
    batch = torch.stack([spectral(list(v)) for v in values]).to(dtype)
    assert is_positive_semidefinite(batch).tolist() == [True, True, False, True]
    assert is_positive_definite(batch).tolist() == [True, False, False, False]
    assert is_positive_definite(batch[0]).shape == ()


def test_products_of_thin_factors_are_semidefinite_in_every_dtype() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype, n in ((torch.float32, 60), (torch.float64, 60), (torch.float32, 300)):
        thin = torch.randn(4, n, 3, generator=generator, dtype=torch.float64).to(dtype)
        assert is_positive_semidefinite(thin @ thin.mT).all(), (dtype, n)
        assert not is_positive_definite(thin @ thin.mT).any(), (dtype, n)


def test_factors_are_differentiable_and_bad_samples_harm_themselves_alone() -> None:
    batch = torch.stack([spectral([4.0, 2.0, 1.0]), spectral([4.0, -2.0, 1.0])]).requires_grad_()
    right = torch.ones(2, 3, dtype=torch.float64)
    factor, definite = factor_definite(batch)
    assert definite.tolist() == [True, False]
    assert torch.equal(factor[1], torch.eye(3, dtype=torch.float64))
    solution = solve_factored(factor, right)
    expected = torch.linalg.solve(batch.detach()[0], right[0])
    torch.testing.assert_close(solution[0], expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(solution.sum(), batch)
    # d(1ᵀM⁻¹1)/dM = -yyᵀ with y = M⁻¹1, read off the lower triangle that Cholesky sees.
    outer = -torch.outer(expected, expected)
    torch.testing.assert_close(
        gradient[0] + gradient[0].mT, outer + outer.mT, rtol=1e-10, atol=1e-12
    )
    assert (gradient[1] == 0).all()
    shared = solve_factored(factor[0], right)
    torch.testing.assert_close(shared, expected.expand(2, 3), rtol=1e-12, atol=0)


def test_the_caller_may_name_the_size_of_a_pivot_that_is_no_rounding() -> None:
    nearly = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    assert is_positive_definite(nearly)
    assert not is_positive_definite(nearly, 1e-8)


def test_a_curvature_of_zero_is_convex_to_a_layer_in_every_dtype() -> None:
    pytest.importorskip("foldcore_piqp", reason="a solver that needs a convex problem")
    pytest.importorskip("foldcore_newton", reason="a rule for it")
    for dtype in (torch.float32, torch.float64):
        problem = fc.QuadraticProgram(
            P=fc.Param(2, 2), q=fc.Param(2), lower=torch.zeros(2, dtype=dtype), upper=fc.Param(2)
        )
        layer = fc.build({"problem": problem, "solver": "piqp", "rule": "newton"})
        q, upper = torch.tensor([[1.0, -1.0]], dtype=dtype), torch.ones(1, 2, dtype=dtype)
        found = layer(P=torch.zeros(1, 2, 2, dtype=dtype), q=q, upper=upper)
        expected = torch.tensor([[0.0, 1.0]], dtype=dtype)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
