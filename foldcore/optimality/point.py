"""A program at given points, each of its parts evaluated once and shared by all that measure there."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..numerics.products import concatenate, to_dense
from ..program.program import SmoothProgram


class ProgramPoint:
    """What multipliers, active set and certificate read at x.

    Invariant: gradient and rows stay on the graph of x and the parameters; the values of the
    constraints are constants, for they decide masks and reports alone.

    Attributes:
        program, x: See below.
        gradient: ∇f. Shape (B, n).
        constraint_rows: See :meth:`SmoothProgram.constraint_rows`.
        inequality: g(x). Shape (B, m).
        above_lower, below_upper: x - lower and upper - x, (B, n); None without such bounds.

    Args:
        program: The bound problem.
        x: Shape (B, n).
    """

    def __init__(self, program: SmoothProgram, x: Tensor) -> None:
        self.program, self.x = program, x
        self.gradient, self.constraint_rows = program.gradient(x), program.constraint_rows(x)
        lower, upper = program.lower, program.upper
        with torch.no_grad():
            self.inequality = program.inequality(x)
            self.above_lower = None if lower is None else x - lower
            self.below_upper = None if upper is None else upper - x

    @cached_property
    def equality(self) -> Tensor:
        """h(x), a constant. Shape (B, p)."""
        with torch.no_grad():
            return self.program.equality(self.x)

    @cached_property
    def dense_rows(self) -> Tensor:
        """[∂h/∂x; ∂g/∂x]. Shape (p + m, n) where shared by the batch, else (B, p + m, n)."""
        blocks = [to_dense(part) for part in self.constraint_rows if part is not None]
        if not blocks:
            return self.x.new_zeros(0, self.x.shape[-1])
        return concatenate(blocks, dim=-2, sample_dims=2)
