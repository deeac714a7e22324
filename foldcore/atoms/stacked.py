"""Nonsmooth terms as one function of one image: what dual methods work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..numerics.products import matvec, rmatvec

if TYPE_CHECKING:
    from . import Regularizer


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
