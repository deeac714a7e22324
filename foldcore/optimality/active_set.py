"""Which constraints hold with equality at a point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .point import ProgramPoint

ACTIVE_TOLERANCES = (1e-6, 1e-4, 1e-2)
"""Slacks up to which constraints count as active, tried in turn: what an exact solver, one
that stops early, and a rough black box leave at a constraint that holds."""


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


def active_set(point: ProgramPoint, tolerance: float) -> ActiveSet:
    """Return the constraints whose slack is at most tolerance·(1 + |bound|).

    The bound of a linear row is its h, that of a quadratic or function row 0.
    """
    program = point.program
    with torch.no_grad():
        g = point.inequality
        none = torch.zeros_like(point.x, dtype=torch.bool)
        size = torch.ones_like(g)
        h = program.data.h
        if h is not None:
            size[:, : h.shape[-1]] += torch.where(torch.isfinite(h), h.abs(), torch.zeros_like(h))
        return ActiveSet(
            equality=g.new_ones(g.shape[0], program.n_equality, dtype=torch.bool),
            inequality=g >= -tolerance * size,
            lower=_at_bound(point.above_lower, program.lower, tolerance, none),
            upper=_at_bound(point.below_upper, program.upper, tolerance, none),
        )


def _at_bound(slack: Tensor | None, bound: Tensor | None, tolerance: float, none: Tensor) -> Tensor:
    if slack is None or bound is None:
        return none
    # An absent bound has an infinite slack, and an infinite allowance that would admit it.
    return torch.isfinite(bound) & (slack <= tolerance * (1 + bound.abs()))
