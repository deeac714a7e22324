"""The smooth top-k in closed form, differentiable by autograd: what the folded layer is held against."""

from __future__ import annotations

import torch
from torch import Tensor


def closed_form_top_k(c: Tensor, k: int, temperature: float) -> Tensor:
    """Return argmin -cᵀx + τ Σ x log x over {0 <= x <= 1, Σ x = k}, by sorting.

    Stationarity gives x = min(1, exp(c/τ - 1 - ν)). If the m largest entries are at 1, the others
    share k - m, so that -1 - ν = log(k - m) - log Σ exp(c/τ) over the others: a formula of c, which
    autograd differentiates. m is the smallest number for which no other entry exceeds 1.

    Args:
        c: Scores. Shape (B, n).
        k: Sum of x, 1 <= k < n.
        temperature: τ > 0, in units of c.

    Returns:
        x. Shape (B, n).
    """
    scores = c / temperature
    ordered = scores.sort(-1, descending=True).values
    # Entry m: log Σ exp over the entries that remain when the m largest are taken away.
    rest = ordered.flip(-1).logcumsumexp(-1).flip(-1)[:, :k]
    share = torch.arange(k, 0, -1, dtype=c.dtype, device=c.device).log()
    shift = share - rest
    fits = ordered[:, :k] + shift <= 0
    # argmax of a 0/1 tensor finds the first 1; at m = k - 1 one unit is left, so it always fits.
    capped = fits.to(torch.uint8).argmax(-1, keepdim=True)
    return torch.exp((scores + shift.gather(-1, capped)).clamp(max=0))
