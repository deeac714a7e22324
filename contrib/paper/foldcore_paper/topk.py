"""The smooth top-k problem of equation (19), its exact solver, and random instances of it."""

from __future__ import annotations

import torch
from torch import Tensor

import foldcore as fc


def smooth_topk(n: int, k: float, temperature: float, floor: float) -> fc.Problem:
    """Return min -cᵀx + τ Σ x log x over {floor <= x <= 1, Σx = k}, with the parameter c (n,).

    Equation (19) prints the entropy with the sign that makes it convex to maximise; this is the
    concave problem, as a minimisation. The floor keeps projected gradient steps from afar inside the
    domain of the logarithm; below every x*_i it changes neither the solution nor its gradient.

    Args:
        n: Number of classes.
        k: Sum of x.
        temperature: τ > 0, in units of c.
        floor: Lower bound of x, > 0.
    """

    def objective(x: Tensor, c: Tensor) -> Tensor:
        return -(c @ x) + temperature * (x * x.log()).sum()

    ones = torch.ones(n, dtype=torch.float64)
    return fc.Problem(
        n,
        objective,
        {"c": fc.Param(n)},
        constraints=[fc.BoxHyperplane(ones, float(k), floor, 1.0)],
        convex=True,
    )


def topk_solver(k: float, temperature: float, floor: float) -> fc.CallableSolver:
    """Return the black box of :func:`smooth_topk`: bisection on the multiplier of Σx = k."""

    @fc.solver
    def bisection(program: fc.SmoothProgram) -> Tensor:
        return solve_topk(program.params["c"].reshape(-1, program.n), k, temperature, floor)

    return bisection


def solve_topk(c: Tensor, k: float, temperature: float, floor: float) -> Tensor:
    """Return x* of :func:`smooth_topk` to rounding error. Shapes (B, n) -> (B, n)."""

    def point(multiplier: Tensor) -> Tensor:
        return (((c - multiplier[:, None]) / temperature) - 1).exp().clamp(floor, 1.0)

    low = c.amin(-1) - temperature  # here every entry is 1
    high = c.amax(-1) - temperature * (
        1 + torch.tensor(floor, dtype=c.dtype).log()
    )  # and here floor
    for _ in range(100):
        middle = (low + high) / 2
        above = point(middle).sum(-1) > k
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return point(low)


def bounded_logits(seed: int, n: int, bound: float) -> Tensor:
    """Return logits c = bound·tanh(2z/bound), z standard normal: |c| < bound. Shape (n,), float64.

    The bound limits max x / min x, and with it the conditioning of the Hessian τ/x.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, generator=generator, dtype=torch.float64)
    return bound * torch.tanh(2 * drawn / bound)
