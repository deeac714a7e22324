"""The primal-dual state (x, ν, μ, λ_lower, λ_upper) of rules that carry multipliers, as one flat tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from ..program.program import SmoothProgram
from ..solution import Duals


class PrimalDualState:
    """How a program's points and multipliers lie in a flat state; bounds only where there are such.

    Args:
        program: The bound problem.

    Attributes:
        sizes: Lengths of x, ν, μ, λ_lower and λ_upper; the last two are 0 without such bounds.
    """

    def __init__(self, program: SmoothProgram) -> None:
        self._program = program
        n = program.n
        self.sizes = [
            n,
            program.n_equality,
            program.n_inequality,
            0 if program.lower is None else n,
            0 if program.upper is None else n,
        ]

    def split(self, state: Tensor) -> tuple[Tensor, Duals]:
        """Return x and its multipliers, 0 for absent bounds. Shape (B, s) -> (B, n), Duals."""
        x, equality, inequality, lower, upper = torch.split(state, self.sizes, dim=-1)
        zero = torch.zeros_like(x)
        return x, Duals(
            equality=equality,
            inequality=inequality,
            lower=lower if self.sizes[3] else zero,
            upper=upper if self.sizes[4] else zero,
        )

    def join(self, x: Tensor, duals: Duals) -> Tensor:
        """Return the state of a point and its multipliers. Shape (B, s)."""
        parts = [x, duals.equality, duals.inequality]
        if self.sizes[3]:
            parts.append(duals.lower)
        if self.sizes[4]:
            parts.append(duals.upper)
        return torch.cat(parts, dim=-1)

    def start(self, primal: Tensor | None) -> Tensor:
        """Return the state of a point, 0 without one, with multipliers 0."""
        program = self._program
        if primal is None:
            primal = program.like.new_zeros(program.batch, program.n)
        return self.join(primal, program.pad_duals(None))
