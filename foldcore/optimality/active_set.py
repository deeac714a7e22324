"""Which constraints hold with equality at a point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..program.program import SmoothProgram


@dataclass(frozen=True)
class ActiveSet:
    """Which constraints hold with equality, per sample; boolean masks.

    Attributes:
        equality: (B, p). True, but for rows that others of the batch's sample imply.
        inequality: (B, m).
        lower, upper: (B, n). Where both bounds coincide, both are active.
    """

    equality: Tensor
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
            equality=g.new_ones(g.shape[0], program.n_equality, dtype=torch.bool),
            inequality=g >= -tolerance * size,
            lower=none if lower is None else _at_bound(x - lower, lower, tolerance),
            upper=none if upper is None else _at_bound(upper - x, upper, tolerance),
        )


def _at_bound(slack: Tensor, bound: Tensor, tolerance: float) -> Tensor:
    # An absent bound has an infinite slack, and an infinite allowance that would admit it.
    return torch.isfinite(bound) & (slack <= tolerance * (1 + bound.abs()))
