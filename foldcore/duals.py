"""Recover multipliers at a given primal point: bounded least squares on the active set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .linalg import matvec, rmatvec
from .merge import concatenate
from .program import SmoothProgram
from .solution import Duals

_SINGULAR = 1e-12
"""Squared relative size of a Cholesky pivot below which active gradients count as dependent."""


@dataclass(frozen=True)
class RecoveredDuals:
    """Multipliers that best explain a point.

    Attributes:
        duals: See :class:`Duals`. Differentiable in x and the parameters, on the fixed active set.
        unique: Whether the active constraints' gradients are independent. Shape (B,), bool.
    """

    duals: Duals
    unique: Tensor


@dataclass(frozen=True)
class ActiveSet:
    """Which constraints hold with equality, per sample; boolean masks.

    Attributes:
        inequality: (B, m).
        lower, upper: (B, n). Where both bounds coincide, both are active.
    """

    inequality: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def fixed(self) -> Tensor:
        """Variables at a bound. Shape (B, n)."""
        return self.lower | self.upper


def active_set(program: SmoothProgram, x: Tensor, tolerance: float) -> ActiveSet:
    """Return the constraints whose slack is at most tolerance·(1 + |bound|).

    The bound of a linear row is its h, that of a quadratic or function row 0.
    """
    with torch.no_grad():
        g = program.inequality(x)
        none = torch.zeros_like(x, dtype=torch.bool)
        lower, upper = program.lower, program.upper
        size = torch.ones_like(g)
        h = program.data.h
        if h is not None:
            size[:, : h.shape[-1]] += torch.where(torch.isfinite(h), h.abs(), torch.zeros_like(h))
        return ActiveSet(
            inequality=g >= -tolerance * size,
            lower=none if lower is None else x - lower <= tolerance * (1 + lower.abs()),
            upper=none if upper is None else upper - x <= tolerance * (1 + upper.abs()),
        )


def recover_duals(
    program: SmoothProgram, x: Tensor, active_tolerance: float = 1e-6
) -> RecoveredDuals:
    """Return the multipliers λ that minimise ‖∇f(x) + Jᵀλ‖₂ over the active set, signs respected.

    Source: Nocedal and Wright, Numerical Optimization (2006), equation (18.21), with signs. Variables at
    a bound take up their own stationarity residual, so only the free components are fitted. One
    batched Cholesky factorisation serves all samples; those whose signs come out wrong, or whose
    active gradients are dependent, are fitted one by one by ``scipy.optimize.lsq_linear`` to find
    the support, then solved again on it.

    Args:
        program: The bound problem.
        x: A (near) optimal point. Shape (B, n).
        active_tolerance: A constraint is active where its slack is at most this, relative to
            1 + |bound|.
    """
    active = active_set(program, x, active_tolerance)
    duals, unique = _fit(program, x, active)
    with torch.no_grad():
        doubtful = ~unique | ~_signs_hold(program, duals, active)
        if bool(doubtful.any()):
            active = _supports(program, x, active, doubtful)
    if bool(doubtful.any()):
        duals, unique_on_support = _fit(program, x, active)
        unique = unique & unique_on_support
    return RecoveredDuals(duals=_clip(duals), unique=unique)


def _fit(program: SmoothProgram, x: Tensor, active: ActiveSet) -> tuple[Duals, Tensor]:
    gradient = program.gradient(x)
    p, m = program.n_equality, program.n_inequality
    batch = x.shape[0]
    unique = torch.ones(batch, dtype=torch.bool, device=x.device)
    residual = gradient
    equality, inequality = x.new_zeros(batch, p), x.new_zeros(batch, m)
    if p + m:
        rows = _rows(program, x)
        mask = torch.cat([torch.ones_like(equality), active.inequality.to(x.dtype)], -1)
        free = (~active.fixed).to(x.dtype)
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


def _rows(program: SmoothProgram, x: Tensor) -> Tensor:
    blocks = [program.equality_jacobian(x), program.inequality_jacobian(x)]
    return concatenate(blocks, dim=-2, sample_dims=2)


def _least_squares(
    rows: Tensor, mask: Tensor, free: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weights w minimising ‖free·(gradient + rowsᵀ w)‖ with w = 0 where mask is 0."""
    masked = mask.unsqueeze(-1) * rows * free.unsqueeze(-2)
    gram = masked @ masked.mT + torch.diag_embed(1 - mask)
    factor, info = torch.linalg.cholesky_ex(gram)
    pivots = torch.diagonal(factor.detach(), dim1=-2, dim2=-1)
    size = gram.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
    regular = (info == 0) & (pivots.amin(-1) ** 2 > _SINGULAR * size)
    if not bool(regular.all()):
        # A unit matrix keeps the singular samples finite; they are marked and fitted elsewhere.
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        gram = torch.where(regular[:, None, None], gram, identity)
        factor = torch.linalg.cholesky(gram)
    right = -matvec(masked, gradient)
    weights = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    # One refinement step against the original rows undoes the squared condition number's loss.
    error = -matvec(masked, gradient + rmatvec(masked, weights))
    correction = torch.cholesky_solve(error.unsqueeze(-1), factor).squeeze(-1)
    refined = weights + torch.where(regular[:, None], correction, torch.zeros_like(correction))
    return torch.where(regular[:, None], refined * mask, torch.zeros_like(refined)), regular


def _signs_hold(program: SmoothProgram, duals: Duals, active: ActiveSet) -> Tensor:
    size = 1 + torch.stack(
        [v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[0]) for v in vars(duals).values()]
    ).amax(0)
    threshold = -1e-8 * size[:, None]
    return (
        (duals.inequality >= threshold).all(-1)
        & (duals.lower >= threshold).all(-1)
        & (duals.upper >= threshold).all(-1)
    )


def _supports(program: SmoothProgram, x: Tensor, active: ActiveSet, doubtful: Tensor) -> ActiveSet:
    """Return the active set cut down, for doubtful samples, to the support of a bounded fit."""
    from scipy.optimize import lsq_linear  # scipy stays out of `import foldcore`

    rows = _rows(program, x)
    gradient = program.gradient(x)
    p, n = program.n_equality, program.n
    masks = [active.inequality.clone(), active.lower.clone(), active.upper.clone()]
    for i in torch.nonzero(doubtful).flatten().tolist():
        jacobian = (rows[i] if rows.ndim == 3 else rows).double().cpu()
        identity = torch.eye(n, dtype=torch.float64)
        flags = [mask[i].cpu() for mask in masks]
        blocks = [jacobian[:p], jacobian[p:][flags[0]], -identity[flags[1]], identity[flags[2]]]
        matrix = torch.cat(blocks).numpy().T
        floor = [-float("inf")] * p + [0.0] * (matrix.shape[1] - p)
        if matrix.shape[1] == 0:
            continue
        fit = lsq_linear(
            matrix, -gradient[i].double().cpu().numpy(), (floor, float("inf")), method="bvls"
        )
        positive = torch.from_numpy(fit.x[p:] > 1e-10 * (1 + abs(fit.x).max()))
        offset = 0
        for mask, flag in zip(masks, flags, strict=True):
            count = int(flag.sum())
            kept = flag.clone()
            kept[flag] = positive[offset : offset + count]
            mask[i] = kept.to(mask.device)
            offset += count
    return ActiveSet(*masks)


def _clip(duals: Duals) -> Duals:
    """Set the rounding-size negative multipliers that the sign check let pass to zero."""
    return Duals(
        equality=duals.equality,
        inequality=duals.inequality.clamp(min=0),
        lower=duals.lower.clamp(min=0),
        upper=duals.upper.clamp(min=0),
    )
