"""One run of qpth for a group of samples, with a check of the solution and of its derivative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from qpth.qp import QPFunction
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .config import QpthConfig
from .equalities import Group
from .standard_form import StandardForm

FEASIBILITY = 1e-6
"""Largest violation of a constraint, divided by the size of its terms."""

FLOOR = 1e-5
"""Least size of terms, relative to the data's; what is smaller counts as 0."""

LENGTH_UNIT, CURVATURE_UNIT = 1e-4, 1e-2
"""Relative to the data's size; see ``_units``."""

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Attempt:
    """Outcome of a run.

    Attributes:
        primal: Shape (k, n), on the graph.
        accepted: Shape (k,), bool.
        violation: Scaled violation of the constraints, dependent ones included. Shape (k,).
        mismatch: Scaled error of the derivative's check. Shape (k,).
    """

    primal: Tensor
    accepted: Tensor
    violation: Tensor
    mismatch: Tensor


class _OnceDifferentiable(Function):
    """Identity that refuses a second derivative: qpth would return a wrong one without a word."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        return cotangents


def attempt(form: StandardForm, group: Group, spread: float, config: QpthConfig) -> Attempt:
    """Solve a group on the graph.

    Args:
        spread: Inequalities are multiplied by factors between 1 and 1 + spread. The problem and
            its derivatives stay what they are; the path of the iterates changes.

    Raises:
        RuntimeError: If a factorisation fails, as for a singular P; says so for the whole group.
    """
    rows = list(group.samples)
    A, b = group.select(form)
    Q, p, G, h = form.Q[rows], form.p[rows], form.G[rows], form.h[rows]
    curvature, unit = _units(Q.detach(), p.detach(), A.detach(), b.detach())
    Q, p = Q / curvature.unsqueeze(-1), p / (curvature * unit)
    length = _row_lengths(G)
    G, h = G / length.unsqueeze(-1), h / (length * unit)
    length = _row_lengths(A)
    A, b = A / length.unsqueeze(-1), b / (length * unit)
    if spread:
        steps = torch.arange(1, h.shape[1] + 1, dtype=h.dtype, device=h.device)
        factor = 1 + spread * ((steps * _GOLDEN) % 1)
        G, h = G * factor.unsqueeze(-1), h * factor
    with torch.enable_grad():
        # Inputs that need no gradient get one of their own: the check below differentiates by them.
        p, h, b = (t if t.requires_grad else t.detach().requires_grad_() for t in (p, h, b))
        Q, p, G, h, A, b = _OnceDifferentiable.apply(Q, p, G, h, A, b)  # type: ignore[no-untyped-call]
        solve = QPFunction(
            eps=config.rtol / (LENGTH_UNIT * CURVATURE_UNIT),
            verbose=-1,
            # qpth counts steps in which no sample of the batch improves: with its own limit of 3 a
            # sample that stalls for a while is given up alone and solved among others.
            notImprovedLim=config.max_iter,
            maxIter=config.max_iter,
            check_Q_spd=False,
        )
        scaled = solve(Q, p, G, h, A, b)
        mismatch = _mismatch(scaled, p, G, h, b)
        primal = scaled * unit
    violation = _violation(form, rows, primal.detach(), unit)
    accepted = (violation <= FEASIBILITY) & (mismatch <= config.check_rtol)
    return Attempt(primal, accepted & primal.isfinite().all(-1), violation, mismatch)


def _units(Q: Tensor, p: Tensor, A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return units of curvature and of x, (k, 1) each.

    With x = unit·x̃ and the objective divided by curvature·unit², the program in x̃ is the same
    program, whatever units its author uses. qpth's tolerances are absolute, and its derivative takes
    slacks and multipliers below 1e-8 for 1e-8, so the units are small: x̃ and its multipliers are
    then of the order of 1e4 and 1e6, and 1e-8 is nothing to them.
    """
    curvature = _or_one(Q.abs().amax((-2, -1)))
    sizes = p.abs().amax(-1) / curvature
    if b.shape[-1]:
        sizes = torch.maximum(sizes, (b.abs() / _or_one(A.abs().amax(-1))).amax(-1))
    curvature, unit = curvature * CURVATURE_UNIT, _or_one(sizes) * LENGTH_UNIT
    return curvature.unsqueeze(-1), unit.unsqueeze(-1)


def _row_lengths(matrix: Tensor) -> Tensor:
    """Return the largest entry of each row, (k, rows); 1 for rows of zeros.

    qpth's start and its step lengths treat all slacks and multipliers alike. With a row of 1e-5 beside
    those of bounds, as a variance has in its natural units, it stalls far from the solution.
    """
    return _or_one(matrix.detach().abs().amax(-1))


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, torch.ones_like(size))


def _mismatch(primal: Tensor, p: Tensor, G: Tensor, h: Tensor, b: Tensor) -> Tensor:
    """Return how far x and its derivative are from two identities that hold at a solution. Shape (k,).

    For every w, with ∂ the gradient of wᵀx: (a) ∂ₕ is 0 for a row with slack, because moving a
    limit that is not touched changes nothing; (b) wᵀx = pᵀ∂ₚ + hᵀ∂ₕ + bᵀ∂_b, Euler's identity,
    because x is homogeneous of degree 1 in (p, h, b).

    qpth can return the right x with the multipliers of an early iterate, for instance where the
    linear term is the same for all variables of a simplex, and then a wrong derivative without a
    word. Both identities fail for such an x and for one that is not stationary, and neither asks
    for the multipliers and slacks, which qpth keeps to itself.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(primal.shape[-1], generator=generator, dtype=primal.dtype)
    weight = drawn.to(primal.device).expand_as(primal)
    inputs = [p, h, b] if b.shape[-1] else [p, h]
    gradients = torch.autograd.grad(primal, inputs, weight, retain_graph=True)
    least = FLOOR / LENGTH_UNIT
    with torch.no_grad():
        slack = h - (G @ primal.unsqueeze(-1)).squeeze(-1)
        untouched = (slack * gradients[1]).abs().amax(-1) / (
            least + (primal * weight).abs().sum(-1)
        )
        terms = [primal * weight]
        terms += [-t * g for t, g in zip(inputs, gradients, strict=True)]
        euler = torch.stack([t.sum(-1) for t in terms]).sum(0).abs()
        size = least + torch.stack([t.abs().sum(-1) for t in terms]).sum(0)
        return torch.maximum(untouched, euler / size)


def _violation(form: StandardForm, rows: list[int], x: Tensor, unit: Tensor) -> Tensor:
    """Return the largest scaled violation of all constraints, (k,); NaN where x is."""
    column, least = x.unsqueeze(-1), FLOOR * unit / LENGTH_UNIT
    parts = [torch.zeros_like(x[:, :1])]
    for matrix, limit, equality in ((form.G, form.h, False), (form.A, form.b, True)):
        M, r = matrix[rows].detach(), limit[rows].detach()
        gap = (M @ column).squeeze(-1) - r
        size = r.abs() + (M.abs() @ column.abs()).squeeze(-1) + least * M.abs().amax(-1)
        parts.append((gap.abs() if equality else gap.clamp(min=0)) / _or_one(size))
    fixed, value = form.fixed[rows], form.value[rows].detach()
    parts.append(fixed * (x - value).abs() / (value.abs() + least))
    return torch.cat(parts, -1).amax(-1)
