"""Recover multipliers at a given primal point: bounded least squares on the active set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.definiteness import factor_definite, solve_factored
from ..numerics.products import matvec, rmatvec
from ..program.program import SmoothProgram
from ..solution import Duals
from .active_set import ActiveSet, active_set
from .point import ProgramPoint

_SINGULAR = 1e-12
"""Squared relative size of a Cholesky pivot below which active gradients count as dependent: rows of unit
length at an angle of 1e-6. Their Gram matrix resolves angles down to the root of eps, 1.5e-8."""

_NEGATIVE = 1e-8
"""A multiplier of an inequality may be this negative, relative to 1 + the largest: it is set to zero. The
rounding of a fit with rows at an angle of 1e-6, eps over that angle, stays below."""

_SUPPORT = 1e-10
"""Relative size of a weight above which non-negative least squares used a row. It gives exact zeros to
rows that it leaves out; weights of the size of rounding say nothing."""


@dataclass(frozen=True)
class RecoveredDuals:
    """Multipliers that best explain a point.

    Attributes:
        duals: See :class:`Duals`. Differentiable in x and the parameters, on the fixed active set.
        unique: Whether the active constraints' gradients are independent. Shape (B,), bool.
    """

    duals: Duals
    unique: Tensor


def recover_duals(
    program: SmoothProgram, x: Tensor, active_tolerance: float = 1e-6
) -> RecoveredDuals:
    """Return the multipliers λ that minimise ‖∇f(x) + Jᵀλ‖₂ over the active set, signs respected.

    Source: Nocedal and Wright, Numerical Optimization (2006), equation (18.21), with signs. Variables at
    a bound take up their own stationarity residual, so only the free components are fitted. One
    batched Cholesky factorisation serves all samples; those whose signs come out wrong, or whose
    active gradients are dependent, are fitted one by one by ``scipy.optimize.nnls``, whose active
    sets have independent gradients, to find the support, then solved again on it.

    Args:
        program: The bound problem.
        x: A (near) optimal point. Shape (B, n).
        active_tolerance: A constraint is active where its slack is at most this, relative to
            1 + |bound|.
    """
    return recover_at(ProgramPoint(program, x), active_tolerance)


def recover_at(point: ProgramPoint, active_tolerance: float) -> RecoveredDuals:
    """Return what :func:`recover_duals` does, at a point that others read too."""
    # Differs from (18.21) in that signs are respected. Most samples need no bounded fit: unbounded least
    # squares over the active rows, batched, already has the right signs where those rows are the right
    # ones, and only the rest pays for nnls, one by one.
    active = active_set(point, active_tolerance)
    duals, unique = _fit(point, active)
    with torch.no_grad():
        doubtful = ~unique | ~_signs_hold(duals)
        if bool(doubtful.any()):
            active = _supports(point, active, doubtful)
    if bool(doubtful.any()):
        duals, unique_on_support = _fit(point, active)
        unique = unique & unique_on_support
    return RecoveredDuals(duals=_clip(duals), unique=unique)


def _fit(point: ProgramPoint, active: ActiveSet) -> tuple[Duals, Tensor]:
    program, x, gradient = point.program, point.x, point.gradient
    p, m = program.n_equality, program.n_inequality
    batch = x.shape[0]
    unique = torch.ones(batch, dtype=torch.bool, device=x.device)
    residual = gradient
    equality, inequality = x.new_zeros(batch, p), x.new_zeros(batch, m)
    if p + m:
        rows = point.dense_rows
        mask = torch.cat([active.equality, active.inequality], -1).to(x.dtype)
        free = (~active.fixed).to(x.dtype)
        unbounded = program.lower is None and program.upper is None
        if rows.ndim == 2 and not m and unbounded and bool(active.equality.all()):
            mask, free = mask[0], free[0]
        weights, unique = _least_squares(rows, mask, free, gradient)
        residual = gradient + rmatvec(rows, weights)
        equality, inequality = weights[:, :p], weights[:, p:]
    zero = torch.zeros_like(residual)
    both = active.lower & active.upper
    at_lower = active.lower & (~both | (residual.detach() >= 0))
    at_upper = active.upper & ~at_lower
    return (
        Duals(
            equality=equality,
            inequality=inequality,
            lower=torch.where(at_lower, residual, zero),
            upper=torch.where(at_upper, -residual, zero),
        ),
        unique,
    )


def _least_squares(
    rows: Tensor, mask: Tensor, free: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weights w minimising ‖free·(gradient + rowsᵀ w)‖ with w = 0 where mask is 0.

    Args:
        rows: (k, n) or (B, k, n).
        mask, free: (B, k) and (B, n); (k,) and (n,) where all samples share them and the rows, which
            are then factored once.
        gradient: (B, n).

    Returns:
        w, (B, k), and whether the masked rows are independent, (B,) bool.
    """
    masked = mask.unsqueeze(-1) * rows * free.unsqueeze(-2)
    with torch.no_grad():
        length = torch.linalg.vector_norm(masked, dim=-1)
        # Rows of unit length: independence must not depend on the units they are written in.
        scale = torch.where(length > 0, 1 / length, torch.ones_like(length))
    masked = masked * scale.unsqueeze(-1)
    gram = masked @ masked.mT + torch.diag_embed(1 - mask)
    # Singular samples are marked here and fitted elsewhere.
    factor, regular = factor_definite(gram, _SINGULAR)
    weights = solve_factored(factor, -matvec(masked, gradient))
    # One refinement step against the original rows undoes the squared condition number's loss.
    error = -matvec(masked, gradient + rmatvec(masked, weights))
    refined = (weights + solve_factored(factor, error)) * (mask * scale)
    answer = torch.where(regular.unsqueeze(-1), refined, torch.zeros_like(refined))
    return answer, regular.expand(gradient.shape[0])


def _signs_hold(duals: Duals) -> Tensor:
    """Return where no multiplier of an inequality is negative beyond rounding. Shape (B,), bool."""
    size = 1 + torch.cat(list(vars(duals).values()), -1).abs().amax(-1)
    threshold = -_NEGATIVE * size[:, None]
    return (
        (duals.inequality >= threshold).all(-1)
        & (duals.lower >= threshold).all(-1)
        & (duals.upper >= threshold).all(-1)
    )


def _supports(point: ProgramPoint, active: ActiveSet, doubtful: Tensor) -> ActiveSet:
    """Return the active set cut down, for doubtful samples, to the support of a bounded fit."""
    from scipy.optimize import nnls  # scipy stays out of `import foldcore`

    rows, gradient = point.dense_rows.detach(), point.gradient.detach()
    p, n = point.program.n_equality, point.program.n
    masks = [mask.clone() for mask in vars(active).values()]
    identity = torch.eye(n, dtype=torch.float64)
    # Where a point is so far away that its gradients overflow there is nothing to fit.
    doubtful = doubtful & gradient.isfinite().all(-1) & rows.isfinite().all(-1).all(-1)
    for i in torch.nonzero(doubtful).flatten().tolist():
        jacobian = (rows[i] if rows.ndim == 3 else rows).double().cpu()
        flags = [mask[i].cpu() for mask in masks]
        blocks = [
            jacobian[:p][flags[0]],
            jacobian[p:][flags[1]],
            -identity[flags[2]],
            identity[flags[3]],
        ]
        free = int(flags[0].sum())
        # Equality multipliers have no sign: each is the difference of two that have.
        matrix = torch.cat([-blocks[0], *blocks]).numpy().T
        if matrix.shape[1] == 0:
            continue
        fit, _ = nnls(
            matrix, -gradient[i].double().cpu().numpy(), maxiter=100 + 10 * matrix.shape[1]
        )
        signed = torch.from_numpy(fit)
        weights = torch.cat([signed[:free] + signed[free : 2 * free], signed[2 * free :]])
        used = torch.split(weights > _SUPPORT * (1 + weights.max()), [int(f.sum()) for f in flags])
        for mask, flag, kept in zip(masks, flags, used, strict=True):
            support = flag.clone()
            support[flag] = kept
            mask[i] = support.to(mask.device)
    return ActiveSet(*masks)


def _clip(duals: Duals) -> Duals:
    """Set the rounding-size negative multipliers that the sign check let pass to zero."""
    return Duals(
        equality=duals.equality,
        inequality=duals.inequality.clamp(min=0),
        lower=duals.lower.clamp(min=0),
        upper=duals.upper.clamp(min=0),
    )
