"""A Newton step whose active set is confirmed by the point that it leads to.

A multiplier that exceeds its slack is a guess: an interior-point answer's slack may exceed a small
multiplier, and the noise of a multiplier a small slack. The step tells: where it makes a multiplier
negative the row is let go, where it breaks a row the row is held, as long as that makes the step
better. One exchange is a step of the primal-dual active set method.

Source: Hintermüller, Ito and Kunisch, The primal-dual active set strategy as a semismooth Newton method
(2002), algorithm 1. This differs from it in that an exchange is kept only where it pays, per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics.products import matvec
from ..program.program import SmoothProgram
from ..solution import Duals
from .dependence import dependent
from .solution_system import Held, SolutionSystem

_EXCHANGES = 8
"""Rounds at most; from a solver's answer one or two are enough, from a far point a step need not settle."""

_ROUNDING = 1e4
"""Machine epsilons, relative to the terms that cancel, below which a violation is none."""

_BETTER = 0.1
"""An exchange must leave this much of the violation, or less."""


def confirmed_step(
    program: SmoothProgram,
    x: Tensor,
    duals: Duals,
    held: Held,
    known: SolutionSystem | None = None,
) -> tuple[SolutionSystem, Tensor]:
    """Return a Newton step from x, its active set exchanged until the step confirms it.

    Args:
        program: On the graph where a parameter needs a gradient.
        x: Shape (B, n).
        duals: Its multipliers.
        held: The guess.
        known: A system of the same constant H and C, whose factors are used again where the active
            set is the same.

    Returns:
        The system and the unknowns (B, size) that solve it, on the graph.
    """
    system = SolutionSystem(program, x, duals, held, factors_of=known)
    found = system.solve(x, duals)
    with torch.no_grad():
        best = _confirmed(_Trial(system, x, found), x, duals)
        held = best.with_implied()
    if best.system is system and held is best.held:
        return system, found
    system = SolutionSystem(program, x, duals, held, like=best.system)
    return system, system.solve(x, duals)


def _confirmed(best: _Trial, x: Tensor, duals: Duals) -> _Trial:
    """Return the last of the trials, each sample's with what made its step better."""

    def trial_of(held: Held) -> _Trial:
        system = SolutionSystem(best.system.program, x, duals, held, like=best.system)
        return _Trial(system, x, system.solve(x, duals))

    for _ in range(_EXCHANGES):
        wrong = best.worst > _ROUNDING * torch.finfo(x.dtype).eps
        if not bool(wrong.any()):
            break
        trial = trial_of(best.exchanged(wrong))
        better = wrong & (trial.worst <= _BETTER * best.worst)
        if not bool(better.any()):
            break
        whole = bool((better | ~wrong).all())
        best = trial if whole else trial_of(trial.held.where(better, best.held))
    return best


class _Trial:
    """A step and how far its point is from satisfying what is not held, relative to rounding.

    Attributes:
        worst: Largest violated slack or multiplier, each relative to the terms that make it up.
            Shape (B,).
    """

    def __init__(self, system: SolutionSystem, x: Tensor, found: Tensor) -> None:
        self.system, self.held = system, system.held
        self._program = program = system.program
        new, moved = system.unpack(found.detach())
        slack, size = _slacks(system, x, new)
        self._slacks, self._sizes = slack, size
        pull = system.system.operator.magnitude(found)
        pull = pull.maximum(system.right[:, : program.n].abs().amax(-1))
        pull = _or_one(pull).unsqueeze(-1)
        steep = system.system.operator.rows[..., program.n_equality :, :].abs().amax(-1)
        self._gaps = {"rows": _gap(self.held.rows, slack["rows"] / size["rows"],
                                   moved.inequality * steep / pull)}  # fmt: skip
        pinned = _pinned(program)
        for side, force in (("lower", moved.lower), ("upper", moved.upper)):
            if side not in slack:
                self._gaps[side] = torch.zeros_like(x)
                continue
            gap = _gap(getattr(self.held, side), slack[side] / size[side],
                       force / pull)  # fmt: skip
            self._gaps[side] = gap if pinned is None else torch.where(pinned, 0.0, gap)
        worst = torch.cat(list(self._gaps.values()), -1)
        self.worst = worst.amax(-1) if worst.shape[-1] else x.new_zeros(x.shape[0])
        # NaN is worse than everything.
        self.worst = torch.where(self.worst.isnan(), torch.inf, self.worst)

    def exchanged(self, wrong: Tensor) -> Held:
        """Return the active set with the violated rows and bounds of wrong samples exchanged."""
        floor = _ROUNDING * torch.finfo(self.worst.dtype).eps
        swap = {k: (v > floor) & wrong.unsqueeze(-1) for k, v in self._gaps.items()}
        lower = self.held.lower ^ swap["lower"]
        upper = self.held.upper ^ swap["upper"]
        both = lower & upper
        # A variable that leaves one bound for the other ends at the one that it breaks.
        lower = lower & ~(both & self.held.lower)
        upper = upper & ~(both & self.held.upper)
        return Held(self.held.rows ^ swap["rows"], lower, upper & ~lower)

    def with_implied(self) -> Held:
        """Return the active set with the rows and bounds that it implies; itself where there are none."""
        floor = _ROUNDING * torch.finfo(self.worst.dtype).eps
        near = {
            name: (slack.abs() <= floor * self._sizes[name]) & ~getattr(self.held, name)
            for name, slack in self._slacks.items()
        }
        if not any(bool(mask.any()) for mask in near.values()):
            return self.held
        fixed = self.held.lower | self.held.upper
        none = torch.zeros_like(fixed)
        low, high = near.get("lower", none) & ~fixed, near.get("upper", none) & ~fixed
        candidates = torch.cat(
            [near["rows"].new_zeros(near["rows"].shape[0], self._program.n_equality), near["rows"]],
            -1,
        )
        operator = self.system.system.operator
        rows, bounds = dependent(operator, candidates, low | high)
        rows = rows[:, self._program.n_equality :]
        if not bool(rows.any()) and not bool(bounds.any()):
            return self.held
        lower = self.held.lower | (bounds & low)
        return Held(self.held.rows | rows, lower, (self.held.upper | (bounds & high)) & ~lower)


def _gap(held: Tensor, slack: Tensor, force: Tensor) -> Tensor:
    return torch.where(held, -force, -slack).clamp(min=0)


def _pinned(program: SmoothProgram) -> Tensor | None:
    if program.lower is None or program.upper is None:
        return None
    return program.lower == program.upper


def _slacks(
    system: SolutionSystem, x: Tensor, new: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return slacks of the linearised rows and of the bounds at a new point, and their terms' sizes."""
    program, operator = system.program, system.system.operator
    slack: dict[str, Tensor] = {}
    size: dict[str, Tensor] = {}
    p = program.n_equality
    rows = operator.rows[..., p:, :]
    product = bound = terms = new[:, :0]
    if rows.shape[-2]:
        product, terms = matvec(rows, new), matvec(rows.abs(), new.abs())
        h = program.data.h if program.hessian_is_constant else None
        bound = matvec(rows, x) - program.inequality(x) if h is None else h.expand_as(product)
    absent = torch.isinf(bound)
    slack["rows"] = torch.where(absent, torch.inf, bound - product)
    size["rows"] = _or_one(terms + torch.where(absent, 0.0, bound.abs()))
    for name, values, sign in (("lower", program.lower, 1.0), ("upper", program.upper, -1.0)):
        if values is not None:
            slack[name] = torch.where(torch.isinf(values), torch.inf, sign * (new - values))
            finite = torch.where(torch.isinf(values), 0.0, values.abs())
            # x itself is as exact as the largest of its neighbours makes it.
            size[name] = _or_one(finite + new.abs().amax(-1, keepdim=True))
    return slack, size


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0)
