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
from ..numerics.sparse import Matrix, SparseMatrix
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
        first = _Trial(system, x, found)
        if first.settled:
            return system, found
        best = _confirmed(first, x, duals)
        held = best.with_implied()
    if best.system is system and held is best.held:
        return system, found
    system = SolutionSystem(program, x, duals, held, like=best.system)
    return system, system.solve(x, duals)


def _confirmed(best: _Trial, x: Tensor, duals: Duals) -> _Trial:
    """Return the last of the trials, each sample's with what made its step better."""

    def trial_of(held: Held) -> _Trial:
        system = SolutionSystem(best.system.program, x, duals, held, like=best.system)
        trial = _Trial(system, x, system.solve(x, duals))
        trial.measure()
        return trial

    best.measure()

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
    """A step, and what its point says about the constraints that are held and those that are not.

    Attributes:
        system, held: Of the step.
        settled: Whether no sample has a negative multiplier, nor a slack that is none.
        worst: Largest violated slack or multiplier, each relative to the terms that make it up;
            after :meth:`measure`. Shape (B,).
    """

    def __init__(self, system: SolutionSystem, x: Tensor, found: Tensor) -> None:
        self.system, self.held = system, system.held
        self._program, self._found = system.program, found.detach()
        self._floor = _ROUNDING * torch.finfo(x.dtype).eps
        new, moved = system.unpack(self._found)
        self._slacks, self._sizes, self._norms = _slacks(system, x, new)
        self._forces = {"rows": moved.inequality, "lower": moved.lower, "upper": moved.upper}
        doubts = []
        for name, slack in self._slacks.items():
            held = getattr(self.held, name)
            free = slack > self._floor * self._sizes[name]
            doubts.append(~torch.where(held, self._forces[name] >= 0, free))
        self.settled = not bool(torch.cat(doubts, -1).any()) if doubts else True

    def measure(self) -> None:
        """Measure the violations."""
        program, operator = self._program, self.system.system.operator
        n = program.n
        pull = operator.magnitude(self._found)
        pull = pull.maximum(self.system.right[:, :n].detach().abs().amax(-1))
        pull = _or_one(pull).unsqueeze(-1)
        pinned = None
        if program.lower is not None and program.upper is not None:
            pinned = program.lower == program.upper
        self._gaps = {}
        for name, slack in self._slacks.items():
            force = self._forces[name] / pull
            force = force * self._norms if name == "rows" else force
            gap = torch.where(getattr(self.held, name), -force, -slack / self._sizes[name])
            gap = gap.clamp(min=0)
            if pinned is not None and name != "rows":
                gap = torch.where(pinned, 0.0, gap)
            self._gaps[name] = gap
        worst = torch.cat(list(self._gaps.values()), -1).amax(-1)
        # NaN is worse than everything.
        self.worst = torch.where(worst.isnan(), torch.inf, worst)

    def exchanged(self, wrong: Tensor) -> Held:
        """Return the active set with the violated rows and bounds of wrong samples exchanged."""
        held = self.held
        masks = {"rows": held.rows, "lower": held.lower, "upper": held.upper}
        for name, gap in self._gaps.items():
            masks[name] = masks[name] ^ ((gap > self._floor) & wrong.unsqueeze(-1))
        both = masks["lower"] & masks["upper"]
        # A variable that leaves one bound for the other ends at the one that it breaks.
        lower = masks["lower"] & ~(both & held.lower)
        return Held(masks["rows"], lower, masks["upper"] & ~lower)

    def with_implied(self) -> Held:
        """Return the active set with the rows and bounds that it implies; itself where there are none."""
        held = self.held
        if self.system.system.operator.sparse:
            return held  # which rows follow from others is asked of dense rows alone
        near = {
            name: (slack.abs() <= self._floor * self._sizes[name]) & ~getattr(held, name)
            for name, slack in self._slacks.items()
        }
        fixed = held.lower | held.upper
        none = torch.zeros_like(fixed)
        low, high = near.get("lower", none) & ~fixed, near.get("upper", none) & ~fixed
        p = self._program.n_equality
        candidates = near.get("rows", held.rows & False)
        candidates = torch.cat([candidates.new_zeros(candidates.shape[0], p), candidates], -1)
        rows, bounds = dependent(self.system.system.operator, candidates, low | high)
        rows = rows[:, p:]
        if not bool(rows.any()) and not bool(bounds.any()):
            return held
        lower = held.lower | (bounds & low)
        return Held(held.rows | rows, lower, (held.upper | (bounds & high)) & ~lower)


def _slacks(
    system: SolutionSystem, x: Tensor, new: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Return slacks at a new point, the sizes of their terms, and the lengths of the rows.

    Rows are linearised at x. Absent rows and bounds have infinite slack.
    """
    program = system.program
    slack: dict[str, Tensor] = {}
    size: dict[str, Tensor] = {}
    norms = x[:, :0]
    if program.n_inequality:
        rows = _inequality_rows(system)
        h = program.data.h if program.hessian_is_constant else None
        bound = matvec(rows, x) - program.inequality(x) if h is None else h
        norms = (
            rows.row_lengths()
            if isinstance(rows, SparseMatrix)
            else torch.linalg.vector_norm(rows, dim=-1)
        )
        slack["rows"] = bound - matvec(rows, new)
        # The terms of the product are at most the product of the lengths.
        terms = norms * torch.linalg.vector_norm(new, dim=-1, keepdim=True)
        size["rows"] = _or_one(terms + torch.where(bound.isinf(), 0.0, bound.abs()))
    largest = new.abs().amax(-1, keepdim=True) if system.bounded else new
    for name, values in (("lower", program.lower), ("upper", program.upper)):
        if values is not None:
            slack[name] = new - values if name == "lower" else values - new
            # x itself is as exact as the largest of its neighbours makes it.
            size[name] = _or_one(largest + torch.where(values.isinf(), 0.0, values.abs()))
    return slack, size, norms


def _inequality_rows(system: SolutionSystem) -> Matrix:
    rows = system.system.operator.rows
    if isinstance(rows, SparseMatrix):
        G = system.program.data.G
        return rows if G is None else G
    return rows[..., system.program.n_equality :, :]


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0)
