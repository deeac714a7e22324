"""The smooth top-k of equation (19): the problem, its forward passes, its exact derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from foldcore_digits import bisect_top_k, closed_form_top_k
from torch import Tensor

import foldcore as fc

from .cone import ConeProgram
from .settings import ConeSettings, Forward

TopK = Callable[[Tensor], Tensor]
"""Logits c (B, n) -> x (B, n), float64, differentiable."""
BlackBox = Callable[[fc.SmoothProgram], Tensor]


def top_k_problem(n: int, k: int, temperature: float) -> fc.Problem:
    """Return min -cᵀx + τ Σ x log x subject to x <= 1, Σ x = k, with the parameter c (n,).

    Equation (19) prints the entropy with the wrong sign; this is the concave problem, as a
    minimisation. x >= 0 is left out: the slope of x log x keeps x > 0, so that the row is never
    active, and without it the QPs inside f-PGDa and f-SQP have half the inequalities.
    """

    def objective(x: Tensor, c: Tensor) -> Tensor:
        return -(c @ x) + temperature * (x * torch.log(x)).sum()

    return fc.Problem(
        n,
        objective,
        params={"c": fc.Param(n)},
        equality=lambda x: x.sum().reshape(1) - k,
        upper=1.0,
        convex=True,
    )


def black_box(forward: Forward, n: int, k: int, temperature: float, cone: ConeSettings) -> BlackBox:
    """Return the forward pass that every backward pass gets: a solver as foldcore takes one."""
    if forward == "bisection":
        return bisect_top_k(k, temperature)
    program = ConeProgram(n, k, temperature, cone)

    def cone_solver(bound: fc.SmoothProgram) -> Tensor:
        with torch.no_grad():
            return program(bound.params["c"].expand(bound.batch, bound.n))

    return cone_solver


def values_of(problem: fc.Problem, solver: BlackBox) -> TopK:
    """Return the bare forward pass as a function of c: no gradient."""
    fold = fc.build({"problem": problem, "solver": solver, "rule": "newton", "adjoint": "direct"})

    def values(c: Tensor) -> Tensor:
        with torch.no_grad():
            x: Tensor = fold(c=c)
        return x

    return values


class DirectTopK(torch.autograd.Function):
    """x*(c) with the derivative of its KKT conditions, solved by hand.

    With F = {i : x_i < 1}, stationarity c_i - τ(log x_i + 1) = ν on F and Σ_F x = const give
    dx_i = x_i (dc_i - dν)/τ with dν = Σ_F x dc / Σ_F x, and dx_i = 0 elsewhere. The matrix is
    symmetric, so that the vjp is the same formula. Exact where no x_i is about to reach or leave 1.

    Args (of apply):
        c: Logits. Shape (B, n).
        x: x*(c). Shape (B, n).
        free: Whether x_i < 1. Not read off x, where a solver may leave a capped entry just below 1.
        temperature: τ.
    """

    @staticmethod
    def forward(ctx: Any, c: Tensor, x: Tensor, free: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(torch.where(free, x, torch.zeros_like(x)))
        ctx.temperature = temperature
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None, None]:
        (free,) = ctx.saved_tensors
        mean = (free * cotangents[0]).sum(-1, keepdim=True) / free.sum(-1, keepdim=True)
        return free * (cotangents[0] - mean) / ctx.temperature, None, None, None


def with_direct_derivative(values: TopK, k: int, temperature: float) -> TopK:
    """Return the values with the derivative of :class:`DirectTopK`."""

    def direct(c: Tensor) -> Tensor:
        free = closed_form_top_k(c.detach(), k, temperature) < 1
        x: Tensor = DirectTopK.apply(c, values(c), free, temperature)  # type: ignore[no-untyped-call]
        return x

    return direct
