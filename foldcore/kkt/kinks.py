"""Constraints that hold without a multiplier: where they make a kink, and where they say nothing new."""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics.products import concatenate
from ..program.program import SmoothProgram
from ..solution import Duals
from .dependence import dependent
from .operator import Operator


def kinked(program: SmoothProgram, x: Tensor, duals: Duals, tolerance: Tensor) -> dict[int, str]:
    """Return the samples whose solution map has a kink, with the constraints that make it, in words.

    A row without a multiplier that depends on strictly active rows holds wherever they do: a row
    stated twice, of which the solver gives the multiplier to one, makes no kink.

    Args:
        program: Whose sets all have rows.
        x: Shape (B, n).
        duals: Its multipliers.
        tolerance: Scaled slack and multiplier up to which a constraint counts as without them; as
            scaled in certificate (a). Below 0 for samples that are not asked about. Shape (B,).
    """
    with torch.no_grad():
        p, batch = program.n_equality, x.shape[0]
        primal_size = 1 + x.abs().amax(-1, keepdim=True)
        slope = program.gradient(x)
        pull = program.lagrangian_gradient(x, duals) - slope
        terms = torch.cat([slope, pull, duals.lower, duals.upper], -1)
        dual_size = 1 + terms.abs().amax(-1, keepdim=True)
        limit = tolerance.unsqueeze(-1)
        none = torch.zeros_like(x, dtype=torch.bool)

        def pair(slack: Tensor, multiplier: Tensor) -> tuple[Tensor, Tensor]:
            small = torch.maximum(slack / primal_size, multiplier / dual_size) <= limit
            return small, (multiplier > slack) & ~small

        weak_rows, strict_rows = pair(-program.inequality(x), duals.inequality)
        weak_bounds, fixed = {"lower bound": none, "upper bound": none}, none
        sides = {
            "lower bound": (program.lower, duals.lower, 1.0),
            "upper bound": (program.upper, duals.upper, -1.0),
        }
        for name, (bound, multiplier, sign) in sides.items():
            if bound is not None:
                weak, strict = pair(sign * (x - bound), multiplier)
                weak_bounds[name], fixed = weak, fixed | strict
        if program.lower is not None and program.upper is not None:
            fixed = fixed | (program.lower == program.upper)
        weak_bounds = {name: weak & ~fixed for name, weak in weak_bounds.items()}
        if not bool(torch.cat([weak_rows, *weak_bounds.values()], -1).any()):
            return {}
        rows = concatenate([program.equality_jacobian(x), program.inequality_jacobian(x)], -2, 2)
        equal = weak_rows.new_ones(batch, p)
        operator = Operator(
            rows.new_zeros(program.n), rows, torch.cat([equal, strict_rows], -1), fixed, True
        )
        candidates = torch.cat([~equal, weak_rows], -1)
        either = weak_bounds["lower bound"] | weak_bounds["upper bound"]
        implied_rows, implied_bounds = dependent(operator, candidates, either)
        left = {"inequality": weak_rows & ~implied_rows[:, p:]}
        left.update({name: weak & ~implied_bounds for name, weak in weak_bounds.items()})
    found = torch.cat(list(left.values()), -1).any(-1)
    return {i: _words(left, i) for i in torch.nonzero(found).flatten().tolist()}


def _words(masks: dict[str, Tensor], sample: int) -> str:
    words = []
    for kind, mask in masks.items():
        numbers = torch.nonzero(mask[sample]).flatten().tolist()
        if numbers:
            words.append(f"{kind} {', '.join(map(str, numbers))}")
    return "; ".join(words)
