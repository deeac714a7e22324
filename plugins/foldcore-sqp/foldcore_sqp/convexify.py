"""Make the Hessian of an SQP subproblem positive definite without changing its solution.

With the rows J d + r = 0 of the equalities and strictly active inequalities and bounds, the term
½(Jd + r)ᵀ W (Jd + r) with constant W and its gradient vanish wherever those rows hold. The minimiser,
its multipliers and the derivatives of both are therefore what they were, while the Hessian becomes
H + JᵀWJ. A multiple of the identity would have none of these properties: it changes the derivative.

Source: Nocedal and Wright, Numerical Optimization (2006), section 18.4 (augmented Lagrangian Hessian)
and theorem 17.5: a finite weight suffices exactly where second-order sufficiency holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldcore import SmoothProgram, is_positive_definite, rmatvec
from foldcore.kkt import Held

_ROUNDING = 10.0
"""Multiples of n machine epsilons up to which a curvature counts as zero."""

_DOUBLINGS = 64


@dataclass(frozen=True)
class Convexified:
    """A positive definite Hessian and what goes with it.

    Attributes:
        hessian: Shape (n, n) where shared by the batch and definite already, else (B, n, n).
        linear: What is added to the gradient. Shape (B, n), or None for nothing.
        failed: Samples without second-order sufficiency, with the identity as Hessian. Shape
            (B,), bool, or None where every Hessian was definite.
    """

    hessian: Tensor
    linear: Tensor | None
    failed: Tensor | None


def convexify(program: SmoothProgram, x: Tensor, hessian: Tensor, active: Held) -> Convexified:
    """Convexify the samples whose Hessian is not positive definite; leave the others alone.

    Args:
        program: The bound problem, on the graph.
        x: Shape (B, n).
        hessian: Of the Lagrangian, (n, n) or (B, n, n), on the graph.
        active: The rows to use beside the equalities.
    """
    definite = is_positive_definite(hessian)
    if bool(definite.all()):
        return Convexified(hessian, None, None)
    rows, values = _active_rows(program, x, active)
    curved = hessian.detach().expand(x.shape[0], -1, -1)
    scale = _scale(program, x, curved)
    weight, failed = _weight(curved, rows.detach(), scale, definite.expand(x.shape[0]))
    weighted = weight @ rows
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return Convexified(
        hessian=torch.where(failed[:, None, None], identity, hessian + rows.mT @ weighted),
        linear=rmatvec(weighted, values),
        failed=failed,
    )


def _active_rows(program: SmoothProgram, x: Tensor, active: Held) -> tuple[Tensor, Tensor]:
    """Return J (B, k, n) and r (B, k), zero in the rows that are not active."""
    batch, n = x.shape
    zero = x.new_zeros(())
    fixed = active.lower | active.upper
    gap = torch.zeros_like(x)
    if program.lower is not None:
        gap = torch.where(active.lower, x - program.lower, gap)
    if program.upper is not None:
        gap = torch.where(active.upper, x - program.upper, gap)
    inequality = program.inequality_jacobian(x).expand(batch, -1, n)
    blocks = [
        program.equality_jacobian(x).expand(batch, -1, n),
        torch.where(active.rows.unsqueeze(-1), inequality, zero),
        torch.diag_embed(fixed.to(x.dtype)),
    ]
    values = [
        program.equality(x),
        torch.where(active.rows, program.inequality(x), zero),
        gap,
    ]
    return torch.cat(blocks, -2), torch.cat(values, -1)


def _scale(program: SmoothProgram, x: Tensor, hessian: Tensor) -> Tensor:
    """Return the size of the Hessian per sample, or one made of gradient and point where it is 0."""
    with torch.no_grad():
        size: Tensor = torch.linalg.matrix_norm(hessian)
        slope = program.gradient(x).abs().amax(-1) / (1 + x.abs().amax(-1))
        other = torch.where(slope > 0, slope, torch.ones_like(slope))
        return torch.where(size > 0, size, other)


def _weight(
    hessian: Tensor, rows: Tensor, scale: Tensor, definite: Tensor
) -> tuple[Tensor, Tensor]:
    """Return W (B, k, k), zero where it is not needed, and the samples that no W can serve.

    W = σ(JJᵀ)⁺, so that JᵀWJ is σ times the projector onto the rows' span: the Hessian's condition
    does not suffer from the rows'. With m the smallest eigenvalue of the Hessian on their null
    space, σ is the smallest of m/2, m, 2m, … for which H + JᵀWJ - (m/2)I has a Cholesky factor.
    """
    n = hessian.shape[-1]
    identity = torch.eye(n, dtype=hessian.dtype, device=hessian.device)
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    rounding = _ROUNDING * n * torch.finfo(hessian.dtype).eps
    spanning = sizes > rounding * sizes.amax(-1, keepdim=True)
    basis = right * spanning.unsqueeze(-1)
    projector = basis.mT @ basis
    null = identity - projector
    reduced = null @ hessian @ null + scale[:, None, None] * projector
    curvature = torch.linalg.eigvalsh((reduced + reduced.mT) / 2)[:, 0]
    failed = ~definite & ~(curvature > rounding * scale)
    wanted = ~definite & ~failed
    sigma = torch.where(wanted, curvature / 2, torch.zeros_like(curvature))
    shifted = hessian - (sigma[:, None, None] * identity)
    for _ in range(_DOUBLINGS):
        _, info = torch.linalg.cholesky_ex(shifted + sigma[:, None, None] * projector)
        short = wanted & (info != 0)
        if not bool(short.any()):
            break
        sigma = torch.where(short, 2 * sigma, sigma)
    inverse = torch.where(spanning, 1 / sizes**2, torch.zeros_like(sizes))
    weight = (left * (sigma[:, None] * inverse).unsqueeze(-2)) @ left.mT
    return weight, failed
