"""K factored once: the regular samples at once, the few others again with care."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from .careful import CarefulFactors
from .direct import PerSampleFactors, SharedFactors
from .operator import Operator

_REFINEMENTS = 5
"""Each takes off the digits that the factors have; those trusted have six, so that three are enough."""

_TRUSTED = 1e-6
"""Relative pivot, in float64, below which a sample goes the careful way: Cholesky's answer may have lost
half of its digits, and refinement with it no longer converges for sure."""

_EXACT = 1e-2
"""Relative pivot, in float64, above which no refinement is worth its products."""


class Factors:
    """The factors of an operator, for any number of right-hand sides.

    Invariant: what a regular sample is computed with depends on that sample alone.

    Attributes:
        operator: K, without gradient.
        exact: Whether every sample's factors are so good that a solve needs no refinement.
        careful: The samples that went the careful way, (b,) int64; None for none.
        nullity: Dimension of K's null space. Shape (B,), int64.
        nonconvex: Whether H has negative curvature along the active rows. Shape (B,), bool.
    """

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        # A diagonal H is cheap on any free set, and the identity's rows would cost n² numbers.
        few = operator.fixed is None if operator.diagonal else _few_fixed(operator)
        shared = operator.shared and few
        self._single = operator.shared and operator.all_active
        self._direct = SharedFactors(operator) if shared else PerSampleFactors(operator)
        pivots = self._direct.pivots
        scale = (torch.finfo(pivots.dtype).eps / torch.finfo(torch.float64).eps) ** 0.5
        self._rough = ~(pivots > min(0.5, _EXACT * scale))
        self.exact = not bool(self._rough.any())
        self.nullity = torch.zeros(operator.batch, dtype=torch.long, device=pivots.device)
        self.nonconvex = torch.zeros_like(self.nullity, dtype=torch.bool)
        self.careful: Tensor | None = None
        self._careful: CarefulFactors | None = None
        if self.exact:
            return
        if self._single:
            # One system for every right-hand side: it is looked at once.
            one = torch.zeros_like(self.nullity[:1])
            if not bool(pivots[0] > min(0.1, _TRUSTED * scale)):
                self.careful = torch.arange(operator.batch, device=pivots.device)
                self._careful = CarefulFactors(operator.take(one))
                self.nullity = self._careful.nullity.expand(operator.batch)
                self.nonconvex = self._careful.nonconvex.expand(operator.batch)
            return
        doubtful = torch.nonzero(~(pivots > min(0.1, _TRUSTED * scale))).flatten()
        if doubtful.numel():
            self.careful = doubtful
            self._careful = CarefulFactors(operator.take(doubtful))
            self.nullity[doubtful] = self._careful.nullity
            self.nonconvex[doubtful] = self._careful.nonconvex

    def resized(self, operator: Operator) -> Factors:
        """Return the factors for a batch of another size, of the same one system for all samples."""
        if not self._single or operator.batch == self.operator.batch:
            return self
        other = copy(self)
        other.operator = operator
        for name in ("_rough", "nullity", "nonconvex"):
            setattr(other, name, getattr(self, name)[:1].expand(operator.batch))
        if self.careful is not None:
            other.careful = torch.arange(operator.batch, device=self.careful.device)
        return other

    @property
    def singular(self) -> bool:
        """Whether some sample's K has a null space."""
        return self.careful is not None and bool(self.nullity.any())

    @property
    def null_vectors(self) -> Tensor:
        """Bases of K's null spaces, zero beyond them, of the careful samples. Shape (b, size, r)."""
        if self._careful is None or self.careful is None:
            return self.operator.dense_rows.new_zeros(0, self.operator.size, 0)
        return self._careful.null_vectors.expand(len(self.careful), -1, -1)

    def solve(self, right: Tensor) -> Tensor:
        """Return the solution of Ky = r, of least norm where there are many; least squares for none.

        Rough samples are refined until the residual of K itself, nothing shifted, is at rounding.

        Args:
            right: Shape (B, size).
        """
        if self.exact:
            return self._direct.solve(right)
        found = self._once(right)
        gap = right - self.operator.product(found)
        wanted = self._rough
        for _ in range(_REFINEMENTS):
            trial = found + self._once(torch.where(wanted.unsqueeze(-1), gap, 0.0))
            left = right - self.operator.product(trial)
            wanted = wanted & (left.abs().amax(-1) < 0.5 * gap.abs().amax(-1))
            if not bool(wanted.any()):
                break
            found = torch.where(wanted.unsqueeze(-1), trial, found)
            gap = torch.where(wanted.unsqueeze(-1), left, gap)
        return found

    def _once(self, right: Tensor) -> Tensor:
        found = self._direct.solve(right)
        if self._careful is not None and self.careful is not None:
            if self._single:
                return self._careful.solve(right)
            found[self.careful] = self._careful.solve(right[self.careful])
        return found


def _few_fixed(operator: Operator) -> bool:
    """Whether bounds as rows cost less than a factor of H on each sample's free variables."""
    if operator.fixed is None:
        return True
    return 2 * int(operator.fixed.sum(-1).max()) <= operator.n
