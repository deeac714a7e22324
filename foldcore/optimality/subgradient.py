"""Find the subgradients of nonsmooth terms that explain a given point: certificates of general terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..numerics.acceleration import accelerate
from ..numerics.solving import matvec, rmatvec
from ..rules.curvature import operator_norm

if TYPE_CHECKING:
    from ..atoms import Regularizer


class StackedTerms:
    """Σ g_i(D_i x) as one function g of one image Dx: what dual methods work on.

    Args:
        terms: Bound terms; each ``split()`` gives D_i and g_i.
        n: Number of variables.
    """

    def __init__(self, terms: Sequence[Regularizer], n: int) -> None:
        self._parts = [term.split() for term in terms]
        self.sizes = [n if d is None else int(d.shape[-2]) for d, _ in self._parts]

    def image(self, x: Tensor) -> Tensor:
        """Return Dx. Shapes (B, n) -> (B, k)."""
        return torch.cat([x if d is None else matvec(d, x) for d, _ in self._parts], dim=-1)

    def pull(self, w: Tensor) -> Tensor:
        """Return Dᵀw. Shapes (B, k) -> (B, n)."""
        blocks = torch.split(w, self.sizes, dim=-1)
        pulled = [
            block if d is None else rmatvec(d, block)
            for block, (d, _) in zip(blocks, self._parts, strict=True)
        ]
        return torch.stack(pulled).sum(0) if len(pulled) > 1 else pulled[0]

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Return the proximal operator of g. Shapes (B, k) -> (B, k)."""
        blocks = torch.split(y, self.sizes, dim=-1)
        pairs = zip(blocks, self._parts, strict=True)
        return torch.cat([g.prox(block, step) for block, (_, g) in pairs], dim=-1)

    def dual_prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Return the proximal operator of g's conjugate. Shapes (B, k) -> (B, k)."""
        blocks = torch.split(y, self.sizes, dim=-1)
        pairs = zip(blocks, self._parts, strict=True)
        return torch.cat([g.dual_prox(block, step) for block, (_, g) in pairs], dim=-1)


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
        # The estimate is from below; the step must not exceed 1/L.
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
