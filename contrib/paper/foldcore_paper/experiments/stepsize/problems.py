"""The instances of the step-size experiment: one problem of the paper for each family of rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import foldcore as fc

from ...topk import bounded_logits, smooth_topk, topk_solver


@dataclass(frozen=True)
class Instance:
    """A problem, how it is solved and folded, its parameters, and the loss's gradient in x.

    Attributes:
        problem: The problem.
        solver: Its black box, accurate to about 1e-10.
        rule: Name of the update rule, which has an option ``step_size``.
        params: One unbatched tensor per parameter; the gradient is taken in all of them.
        cotangent: dL/dx*. Shape (n,).
    """

    problem: fc.ParametricProblem
    solver: object
    rule: str
    params: dict[str, Tensor]
    cotangent: Tensor


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def top_k(seed: int, n: int) -> Instance:
    """Smooth top-k, equation (19), by projected gradient descent; k = n/20, |c| < 1.5."""
    k, floor = max(1, n // 20), 1e-4
    generator = torch.Generator().manual_seed(20_000 + seed)
    return Instance(
        problem=smooth_topk(n, k, 1.0, floor),
        solver=topk_solver(k, 1.0, floor),
        rule="pgd",
        params={"c": bounded_logits(seed, n, 1.5)},
        cotangent=_normal(n, generator=generator),
    )


def mean_variance(seed: int, n: int) -> Instance:
    """A portfolio on the simplex, ½xᵀVx - cᵀx, by projected gradient descent.

    The covariance V is that of n assets driven by n/4 factors, the quadratic penalty of (20)'s
    constraint; it spreads V's eigenvalues, on which the step size depends.
    """
    generator = torch.Generator().manual_seed(30_000 + seed)
    factors = _normal(n, max(1, n // 4), generator=generator)
    V = factors @ factors.T / factors.shape[1] + 0.1 * torch.eye(n, dtype=torch.float64)
    problem = fc.QuadraticProgram(
        P=V, q=fc.Param(n), A=torch.ones(1, n, dtype=torch.float64), b=torch.ones(1, dtype=torch.float64),
        lower=torch.zeros(n, dtype=torch.float64),
    )  # fmt: skip
    return Instance(
        problem=problem,
        solver="osqp",
        rule="pgd",
        params={"q": -0.1 * _normal(n, generator=generator)},
        cotangent=_normal(n, generator=generator),
    )


def denoising(seed: int, n: int) -> Instance:
    """Total variation denoising with λ = 0.5 by dual proximal gradient, differentiated in d and D."""
    generator = torch.Generator().manual_seed(40_000 + seed)
    levels = 2 * _normal(5, generator=generator)
    signal = levels[torch.arange(n) * 5 // n]
    noisy = signal + 0.5 * _normal(n, generator=generator)
    eye = torch.eye(n, dtype=torch.float64)
    problem = fc.Problem(
        n,
        lambda x, d: ((x - d) ** 2).sum() / 2,
        {"d": fc.Param(n)},
        regularizers=[fc.L1(0.5, fc.Param(n - 1, n, name="D"))],
        convex=True,
    )
    return Instance(
        problem=problem,
        solver={"kind": "fdpg", "rtol": 1e-12, "atol": 1e-12, "max_iter": 100_000},
        rule="fdpg",
        params={"d": noisy, "D": eye[:-1] - eye[1:]},
        cotangent=_normal(n, generator=generator),
    )


PROBLEMS: dict[str, Callable[[int, int], Instance]] = {
    "top_k": top_k,
    "mean_variance": mean_variance,
    "denoising": denoising,
}
TITLES = {
    "top_k": "smooth top-k, f-PGD",
    "mean_variance": "portfolio on the simplex, f-PGD",
    "denoising": "denoising, f-FDPG",
}
