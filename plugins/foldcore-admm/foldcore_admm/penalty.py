"""The penalty ρ: a given number, or one scaled from the data."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import Constants, SmoothProgram, to_dense

from .splitting import Splitting


def penalty(
    rho: float | str, program: SmoothProgram, splitting: Splitting, constants: Constants
) -> Tensor:
    """Return ρ, (1,) where it is the same for all samples, else (B, 1); a constant for autograd.

    "auto" is tr P / tr CᵀC, so that P and ρCᵀC have the same mean curvature. It follows a rescaling of
    the objective exactly: the iterates do not depend on its unit. That it comes near the best
    constant is an observation, not a theorem; the best one depends on the active set.
    """
    one = torch.ones(1, dtype=program.dtype, device=program.device)
    if not isinstance(rho, str):
        return one * rho
    if program.data.P is None:
        return one
    P, G = to_dense(program.data.P), program.data.G

    def scaled() -> Tensor:
        gram = splitting.gram(splitting.present, None if G is None else to_dense(G))
        value = _trace(P) / _trace(gram)
        return torch.where(torch.isfinite(value) & (value > 0), value, one)

    with torch.no_grad():
        return constants.once_for("penalty", ("P", "G"), splitting.present, scaled)


def _trace(matrix: Tensor) -> Tensor:
    """Return the trace with one dimension left: (1,) or (B, 1)."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
