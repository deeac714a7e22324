"""Gradients of one batch's error by D: f-FDPG and qpth against the closed form on the active set."""

from __future__ import annotations

import torch
from torch import Tensor

from ...experiment import Row
from .methods import Denoiser, FoldedDenoiser, QpthDenoiser, certify
from .settings import DenoisingSettings
from .signals import Signals

ZERO = 1e-8
"""|(Dx)_i| up to this counts as 0 at a solution that is accurate to 1e-12."""


def on_active_set(weight: float, operator: Tensor, noisy: Tensor, x: Tensor) -> Tensor:
    """Return x* as a differentiable formula in D, valid where the zeros of Dx stay the same.

    With the zeros S of Dx and the signs s of its other rows, x* is the projection of
    y = d - λ Σ_{i not in S} s_i D_i on the null space of D_S.

    Args:
        weight: λ.
        operator: D, of full row rank on S. Shape (99, 100).
        noisy: d. Shape (B, 100).
        x: Accurate solutions. Shape (B, 100).
    """
    with torch.no_grad():
        image = x @ operator.mT
        zero = (image.abs() <= ZERO).to(x.dtype)
        sign = image.sign() * (1 - zero)
    y = noisy - weight * sign @ operator
    gram = zero.unsqueeze(-1) * (operator @ operator.mT) * zero.unsqueeze(-2)
    factor = torch.linalg.cholesky(gram + torch.diag_embed(1 - zero))
    right = (zero * (y @ operator.mT)).unsqueeze(-1)
    return y - torch.cholesky_solve(right, factor).squeeze(-1) @ operator


def compare_gradients(
    settings: DenoisingSettings, weight: float, operator: Tensor, batch: Signals
) -> Row:
    """Return relative differences of dL/dD, in the Frobenius norm, over the nondegenerate samples.

    At a degenerate sample, where strict complementarity fails, dL/dD does not exist and methods may
    differ at will: those are counted, and left out of the batch of all methods alike.
    """
    denoiser = FoldedDenoiser(weight, settings.rtol, operator)
    with torch.no_grad():
        margin = certify(weight, operator, batch.noisy, denoiser(batch.noisy)).margin
    kept = margin > settings.degenerate_margin
    batch = batch.part(kept)
    # Where a gradient is needed, the solution is exact on its active set.
    solution = denoiser(batch.noisy).detach()

    leaf = operator.clone().requires_grad_()
    exact = _gradient(on_active_set(weight, leaf, batch.noisy, solution), leaf, batch)
    folded = _gradient_of(FoldedDenoiser(weight, settings.rtol, operator), batch)
    qpth = _gradient_of(QpthDenoiser(weight, settings.ridge, settings.eps, operator), batch)
    return {
        "degenerate_samples": int((~kept).sum()),
        "smallest_margin": float(margin.min()),
        "fdpg_to_qpth": _relative(folded, qpth),
        "fdpg_to_closed_form": _relative(folded, exact),
        "qpth_to_closed_form": _relative(qpth, exact),
    }


def _gradient_of(denoiser: Denoiser, batch: Signals) -> Tensor:
    return _gradient(denoiser(batch.noisy), denoiser.operator, batch)


def _gradient(x: Tensor, operator: Tensor, batch: Signals) -> Tensor:
    loss = (x - batch.target).square().mean()
    return torch.autograd.grad(loss, operator)[0]


def _relative(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / second.norm())
