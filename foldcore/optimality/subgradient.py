"""Find the subgradients of nonsmooth terms that explain a given point: certificates of general terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..atoms.stacked import StackedTerms
from ..numerics.acceleration import accelerate
from ..numerics.eigenvalues import operator_norm


@dataclass(frozen=True)
class RecoveredSubgradient:
    """A subgradient s of g at Dx that best balances the smooth gradient.

    Attributes:
        value: s. Shape (B, k).
        stationarity: ‖∇f + Dᵀs‖∞. Shape (B,).
        inclusion: ‖Dx - prox_g(Dx + s)‖∞, zero iff s ∈ ∂g(Dx). Shape (B,).
    """

    value: Tensor
    stationarity: Tensor
    inclusion: Tensor


def recover_subgradient(
    terms: StackedTerms, x: Tensor, gradient: Tensor, *, rtol: float = 1e-10, max_iter: int = 5000
) -> RecoveredSubgradient:
    """Minimise g*(s) - <Dx, s> + ½‖∇f + Dᵀs‖² over s by accelerated proximal gradient, without gradient.

    By the Fenchel-Young inequality g*(s) - <Dx, s> >= -g(Dx) with equality iff s ∈ ∂g(Dx): the minimum
    shows s ∈ ∂g(Dx) with Dᵀs = -∇f if there is any, so both reported residuals vanish iff x is
    stationary. Where the iteration stops early they are too large, never too small.

    Args:
        terms: The nonsmooth part of the objective.
        x: Shape (B, n).
        gradient: ∇f of the smooth part at x. Shape (B, n).
    """
    with torch.no_grad():
        image = terms.image(x)
        norm = operator_norm(lambda v: terms.image(terms.pull(v)), image)
        # The estimate is from below, and the step must not exceed 1/L. The margin is larger than the
        # estimate's rtol of 1e-3: where the largest eigenvalues are close it stops before it is there.
        step = torch.where(norm > 0, 1 / (1.05 * norm), torch.ones_like(norm))
        column = step.unsqueeze(-1)

        def descend(s: Tensor) -> Tensor:
            residual = gradient + terms.pull(s)
            return terms.dual_prox(s + column * (image - terms.image(residual)), step)

        start = terms.dual_prox(torch.zeros_like(image), step)
        found = accelerate(
            descend, start, step_size=step, rtol=rtol, atol=rtol, max_iter=max_iter
        ).state
        return RecoveredSubgradient(
            value=found,
            stationarity=(gradient + terms.pull(found)).abs().amax(-1),
            inclusion=(image - terms.prox(image + found, 1.0)).abs().amax(-1),
        )
