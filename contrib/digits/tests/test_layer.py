import pytest
import torch
from foldcore_digits import bisect_top_k, closed_form_top_k, smooth_top_k

import foldcore as fc

CASES = [(10, 2, 1.0), (10, 2, 0.5), (6, 1, 1.0), (8, 3, 1.0)]


def logits(n: int, samples: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    raw = 3 * torch.randn(samples, n, generator=generator, dtype=torch.float64)
    return 2 * torch.tanh(raw / 2)


def with_margin(c: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    """Keep the samples of which no entry is about to reach or leave 1, where x* has a kink."""
    x = closed_form_top_k(c, k, temperature)
    # x = min(1, exp(c/τ + s)), and s is the largest of log x - c/τ.
    exponent = c / temperature + (x.log() - c / temperature).amax(-1, keepdim=True)
    return c[exponent.abs().amin(-1) > 1e-2]


@pytest.mark.parametrize(("n", "k", "temperature"), CASES)
def test_closed_form_satisfies_the_optimality_conditions(n, k, temperature):
    c = logits(n)
    x = closed_form_top_k(c, k, temperature)
    assert torch.allclose(x.sum(-1), torch.full_like(x[:, 0], k), atol=1e-13, rtol=0)
    assert x.max() <= 1
    assert k == 1 or bool((x == 1).any())
    slope = c - temperature * (x.log() + 1)
    for row, capped in zip(slope, x == 1, strict=True):
        assert torch.allclose(row[~capped], row[~capped][0], atol=1e-12, rtol=0)
        assert bool((row[capped] >= row[~capped][0]).all())


def test_closed_form_with_one_unit_is_the_softmax():
    c = logits(10)
    assert torch.allclose(closed_form_top_k(c, 1, 0.7), (c / 0.7).softmax(-1), atol=1e-14, rtol=0)


def test_closed_form_differentiates():
    c = with_margin(logits(8), 3, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: closed_form_top_k(c, 3, 1.0), c)


@pytest.mark.parametrize(("n", "k", "temperature"), CASES)
def test_layer_is_the_closed_form(n, k, temperature):
    c = logits(n)
    x = smooth_top_k(n, k, temperature)(c=c)
    assert x.dtype == torch.float64
    assert torch.allclose(x, closed_form_top_k(c, k, temperature), atol=1e-13, rtol=0)


@pytest.mark.parametrize(("n", "k", "temperature"), CASES)
def test_layer_has_the_gradient_of_the_closed_form(n, k, temperature):
    c = with_margin(logits(n), k, temperature)
    assert len(c) >= 12
    cotangent = torch.randn(c.shape, generator=torch.Generator().manual_seed(1), dtype=c.dtype)
    point = c.clone().requires_grad_()
    (expected,) = torch.autograd.grad(closed_form_top_k(point, k, temperature), point, cotangent)
    (found,) = torch.autograd.grad(smooth_top_k(n, k, temperature)(c=point), point, cotangent)
    error = (found - expected).norm(dim=-1)
    scale = expected.norm(dim=-1).maximum(cotangent.norm(dim=-1))
    assert (error / scale).max() < 1e-6


def test_layer_is_built_as_the_paper_does():
    layer = smooth_top_k(10, 2, 1.0)
    assert set(layer.inner) == {"inner"}
    assert type(layer.inner["inner"].solver).__name__ == "QpthSolver"
    assert type(layer.rule).__name__ == "PGDRule"
    assert type(layer.adjoint).__name__ == "GMRESAdjoint"


def test_solution_is_certified():
    solution = smooth_top_k(10, 2, 1.0).solve(c=logits(10).requires_grad_())
    assert solution.failed == ()
    assert solution.kkt.residual.max() < 1e-10
    assert solution.fixed_point_residual.max() < 1e-8


def test_bisection_takes_a_shared_parameter():
    def objective(x, c):
        return -(c @ x) + (x * x.log()).sum()

    problem = fc.Problem(
        10, objective, params={"c": fc.Param(10)}, constraints=[fc.CappedSimplex(2.0)], convex=True
    )
    layer = fc.build(
        {"problem": problem, "solver": bisect_top_k(2, 1.0), "rule": "pgd", "adjoint": "gmres"}
    )
    c = logits(10)
    assert torch.allclose(layer(c=c[0]), layer(c=c)[0], atol=1e-13, rtol=0)
