"""Smooth top-k and the paper's series, against closed forms."""

from __future__ import annotations

import torch
from foldcore_paper.series import series_gradients
from foldcore_paper.topk import bounded_logits, smooth_topk, solve_topk, topk_solver
from torch import Tensor

import foldcore as fc

N, K, TEMPERATURE, FLOOR = 12, 3, 0.8, 1e-3


def logits(*seeds: int) -> Tensor:
    return torch.stack([bounded_logits(seed, N, 2.0) for seed in seeds])


def layer(step_size: float = 0.05, **config: object) -> fc.Fold:
    return fc.build(
        {
            "problem": smooth_topk(N, K, TEMPERATURE, FLOOR),
            "solver": topk_solver(K, TEMPERATURE, FLOOR),
            "rule": {"kind": "pgd", "step_size": step_size},
            **config,
        }
    )


def closed_form(x: Tensor, cotangent: Tensor) -> Tensor:
    """dx/dc = (diag(x) - xxᵀ/Σx)/τ on the free entries of x, and 0 elsewhere."""
    free = torch.where((x < 1 - 1e-12) & (x > FLOOR + 1e-12), x, 0.0)
    shared = (free * cotangent).sum(-1, keepdim=True) / free.sum(-1, keepdim=True)
    return free * (cotangent - shared) / TEMPERATURE


def test_the_solver_is_optimal_to_rounding() -> None:
    c = logits(0, 1, 2)
    x = solve_topk(c, K, TEMPERATURE, FLOOR)
    assert torch.allclose(x.sum(-1), torch.full((3,), float(K), dtype=x.dtype), rtol=1e-14, atol=0)
    solution = layer(adjoint="direct").solve(c=c)
    assert solution.kkt is not None
    assert solution.kkt.residual.max() < 1e-13


def test_entries_at_the_cap_and_at_the_floor_are_found() -> None:
    c = torch.tensor([[9.0, 8.0, 0.0, 0.1, -0.1, -30.0]], dtype=torch.float64)
    x = solve_topk(c, 3, 1.0, FLOOR)
    assert x[0, 0] == x[0, 1] == 1
    assert x[0, 5] == FLOOR
    free = c[0, 2:5].exp() * (1 - FLOOR) / c[0, 2:5].exp().sum()
    assert torch.allclose(x[0, 2:5], free, rtol=1e-13, atol=0)


def test_the_folded_gradient_is_the_closed_form() -> None:
    c = logits(0, 1, 2).requires_grad_()
    x = layer(adjoint={"kind": "direct", "rtol": 1e-13})(c=c)
    cotangent = torch.randn(3, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(x, c, cotangent)
    exact = closed_form(x.detach(), cotangent)
    assert (gradient - exact).norm() < 1e-12 * exact.norm()


def test_the_series_is_the_sum_of_powers_of_the_closed_form_of_phi() -> None:
    """Without active bounds Φ = T(I - αH) and Ψ = αT, T = I - 11ᵀ/n and H = diag(τ/x)."""
    step = 0.01
    c = logits(3)
    x = solve_topk(c, K, TEMPERATURE, FLOOR)
    assert ((x > FLOOR) & (x < 1)).all()
    cotangent = torch.randn(1, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    tangent = torch.eye(N, dtype=torch.float64) - 1 / N
    phi = tangent @ (torch.eye(N, dtype=torch.float64) - torch.diag(step * TEMPERATURE / x[0]))
    found = series_gradients(layer(step, adjoint="direct"), {"c": c}, cotangent, 25)
    adjoint = term = cotangent[0]
    for (gradient,) in found:
        exact = step * tangent @ adjoint
        assert (gradient[0] - exact).norm() < 1e-12 * exact.norm()
        term = phi.T @ term
        adjoint = adjoint + term


def test_the_first_term_of_the_series_is_one_step_from_the_solution() -> None:
    """J_1 = Ψ, equation (14): one step on the graph gives Ψᵀg, the series' term of v_0."""
    c = logits(4)
    cotangent = torch.ones(1, N, dtype=torch.float64).cumsum(-1)
    first, _ = series_gradients(layer(adjoint="direct"), {"c": c}, cotangent, 1)
    leaf = c.clone().requires_grad_()
    (unfolded,) = torch.autograd.grad(
        layer(mode="fixed_point_unfold", iterations=1)(c=leaf), leaf, cotangent
    )
    assert torch.allclose(first[0], unfolded, rtol=1e-13, atol=1e-15)


def test_logits_are_bounded_and_differ_by_seed() -> None:
    drawn = torch.stack([bounded_logits(seed, 500, 1.5) for seed in range(3)])
    assert drawn.abs().max() < 1.5
    assert drawn.std() > 0.8
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], bounded_logits(0, 500, 1.5))
