"""Which multipliers an SQP step is built from, and which constraints they hold strictly active."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldcore import Duals, SmoothProgram, recover_duals

_TOLERANCES = (1e-6, 1e-5, 1e-4, 1e-3)
"""Slacks up to which constraints count as active, tried in turn where multipliers are poor."""

_GOOD = 1e-8
"""Mismatch below which multipliers are not recovered anew; at least 100 machine epsilons."""


@dataclass(frozen=True)
class StrictlyActive:
    """Constraints whose multiplier exceeds their slack; boolean masks.

    Attributes:
        rows: Of the inequality rows. Shape (B, m).
        lower, upper: Of the bounds, never both. Coinciding bounds always count. Shape (B, n).
    """

    rows: Tensor
    lower: Tensor
    upper: Tensor


def strictly_active(program: SmoothProgram, x: Tensor, duals: Duals) -> StrictlyActive:
    """Return the strictly active constraints at x (B, n), without gradient."""
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
        return StrictlyActive(duals.inequality > -program.inequality(x), lower, upper)


def best_multipliers(program: SmoothProgram, x: Tensor, given: Duals | None) -> Duals:
    """Return, per sample, the multipliers that explain x best, without gradient.

    The Hessian of the Lagrangian is as exact as they are. Candidates are those given and those
    recovered at x by least squares, with more constraints counted as active the less accurate x
    turns out to be: a black box that leaves an error of 1e-4 in x leaves slacks of that size.

    Args:
        program: The bound problem.
        x: Shape (B, n).
        given: Multipliers of a solver, or of a point near x.
    """
    with torch.no_grad():
        best = recover_duals(program, x).duals if given is None else given
        smallest = _mismatch(program, x, best)
        good = max(_GOOD, 100 * torch.finfo(x.dtype).eps)
        for tolerance in _TOLERANCES[given is None :]:
            poor = ~(smallest <= good)
            if not bool(poor.any()):
                break
            candidate = recover_duals(program, x, tolerance).duals
            found = _mismatch(program, x, candidate)
            better = poor & ~(found >= smallest)
            smallest = torch.where(better, found, smallest)
            best = Duals(
                **{
                    name: torch.where(better[:, None], value, getattr(best, name))
                    for name, value in vars(candidate).items()
                }
            )
        return best


def _mismatch(program: SmoothProgram, x: Tensor, duals: Duals) -> Tensor:
    """Return the larger of the scaled stationarity and complementarity residuals. Shape (B,)."""
    size = 1 + _largest(program.gradient(x))
    stationarity = _largest(program.lagrangian_gradient(x, duals))
    gaps = [torch.minimum(-program.inequality(x), duals.inequality)]
    if program.lower is not None:
        gaps.append(torch.minimum(x - program.lower, duals.lower))
    if program.upper is not None:
        gaps.append(torch.minimum(program.upper - x, duals.upper))
    return stationarity.maximum(_largest(torch.cat(gaps, -1))) / size


def _largest(value: Tensor) -> Tensor:
    return value.abs().amax(-1) if value.shape[-1] else value.new_zeros(value.shape[0])
