"""Which constraints hold with equality at a solution, read off its multipliers and slacks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..program.program import SmoothProgram
from ..solution import Duals
from .solution_system import Held


def held_constraints(program: SmoothProgram, x: Tensor, duals: Duals) -> Held:
    """Return the constraints whose multiplier is larger than their slack, without gradient.

    Under strict complementarity these are the active ones. Coinciding bounds always hold, at one side.

    Args:
        program: The bound problem.
        x, duals: A (near) solution, x of shape (B, n), and its multipliers.
    """
    with torch.no_grad():
        none = torch.zeros_like(x, dtype=torch.bool)
        lower, upper = none, none
        if program.lower is not None:
            lower = duals.lower > x - program.lower
        if program.upper is not None:
            upper = duals.upper > program.upper - x
        if program.lower is not None and program.upper is not None:
            pinned = program.lower == program.upper
            lower = lower | (pinned & (duals.lower >= duals.upper))
            upper = (upper | pinned) & ~lower
        return Held(rows=duals.inequality > -program.inequality(x), lower=lower, upper=upper)
