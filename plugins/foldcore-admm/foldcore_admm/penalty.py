"""The penalty ρ: a given number, or one scaled from the data."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import SmoothProgram, to_dense

from .splitting import Splitting

_ROUNDING = 10.0
"""Multiples of n machine epsilons, relative to the largest, up to which an eigenvalue counts as 0."""


def penalty(rho: float | str, program: SmoothProgram, splitting: Splitting) -> Tensor:
    """Return ρ, (1,) where it is the same for all samples, else (B, 1); a constant for autograd.

    "auto" is √(λ_min λ_max)/‖C‖₂² over the positive eigenvalues of P. For C = I and definite P it
    minimises ADMM's worst-case rate.

    Source: Ghadimi, Teixeira, Shames, Johansson, "Optimal parameter selection for ADMM: quadratic
    problems", IEEE Transactions on Automatic Control 60 (2015), theorem 4.
    """
    one = torch.ones(1, dtype=program.dtype, device=program.device)
    if not isinstance(rho, str):
        return one * rho
    if program.data.P is None:
        return one
    with torch.no_grad():
        found = torch.linalg.eigvalsh(to_dense(program.data.P))
        largest = found[..., -1:]
        floor = _ROUNDING * found.shape[-1] * torch.finfo(found.dtype).eps * largest
        smallest = torch.where(found > floor, found, float("inf")).amin(-1, keepdim=True)
        G = program.data.G
        gram = splitting.gram(splitting.present, None if G is None else to_dense(G))
        size = torch.linalg.eigvalsh(gram)[..., -1:]
        value = (smallest * largest).sqrt() / size
        return torch.where(torch.isfinite(value) & (value > 0), value, one)
