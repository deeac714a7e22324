"""Polishing: run the rule from a solver's answer, and keep per sample the better of the two points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...interfaces.rule import BoundRule
from ...program.lowering import Lowering
from ...solution import Duals, KKTReport, Solution
from ..call.certify import measure, reject
from ..call.verdicts import Verdicts
from ..parts import Parts

_ROUNDING = 10.0
"""Machine epsilons of scaled KKT residual up to which a polished point counts as exact."""


@dataclass(frozen=True)
class _Point:
    """A point with its multipliers and its certificate (a)."""

    primal: Tensor
    duals: Duals
    kkt: KKTReport


def polished(
    parts: Parts,
    lowering: Lowering,
    bound: BoundRule,
    state: Tensor,
    raw: Solution,
    verdicts: Verdicts,
    only: Tensor | None = None,
) -> tuple[Tensor, Solution]:
    """Run ``fixed_point.polish`` steps, and reject what certificate (a) rejects afterwards.

    Invariant: no sample's scaled KKT residual is larger than before, beyond rounding; which point a
    sample keeps does not depend on the others. A residual at the level of rounding is never a reason to
    go back: in data of small units that of a good point and of an exact one are both there.

    Args:
        lowering, bound: The bound problem, detached, and the bound rule.
        state: The lifted answer. Shape (B, s).
        raw: The solver's answer with certificate (a), in the original's variables.
        verdicts: Receives the samples whose better point is rejected.
        only: Samples to polish, (B,) bool; the others keep theirs. None for all.

    Returns:
        The state (B, s) of the points kept, and the answer with their primal, duals and certificate.
    """
    with torch.no_grad():
        start = _start(lowering, bound, state, raw, verdicts)
        end = _run(bound, state, max(1, parts.config.fixed_point.polish))
        found = _measured(lowering, bound, end, raw, verdicts)
        better = _not_worse(found.kkt.residual, start.kkt.residual)
        if only is not None:
            better = better & only
        kept = _choose(better, found, start)
        reject(kept.kkt, verdicts, parts.config.kkt)
        answer = replace(raw, primal=kept.primal, duals=kept.duals, kkt=kept.kkt)
        return torch.where(better[:, None], end, state), answer


def _start(
    lowering: Lowering, bound: BoundRule, state: Tensor, raw: Solution, verdicts: Verdicts
) -> _Point:
    """Return the answer as the rule's state holds it: for some rules x is not exactly what was lifted."""
    if raw.kkt is None or raw.duals is None:
        return _measured(lowering, bound, state, raw, verdicts)
    given = _Point(raw.primal, raw.duals, raw.kkt)
    same = (bound.primal(state) == raw.primal).all(-1)
    if bool(same.all()):
        return given
    return _choose(same, given, _measured(lowering, bound, state, raw, verdicts))


def _run(bound: BoundRule, state: Tensor, steps: int) -> Tensor:
    """Return the state after the steps; a sample that overflows ends where it still was finite."""
    start = state
    for _ in range(steps):
        moved = bound.step(state)
        state = torch.where(torch.isfinite(moved).all(-1, keepdim=True), moved, state)
    finite = torch.isfinite(bound.primal(state)).all(-1, keepdim=True)
    return torch.where(finite, state, start)


def _measured(
    lowering: Lowering, bound: BoundRule, state: Tensor, raw: Solution, verdicts: Verdicts
) -> _Point:
    point = replace(raw, primal=bound.primal(state), duals=bound.duals(state))
    found = lowering.restrict(measure(lowering, point, verdicts))
    if found.duals is None or found.kkt is None:
        raise TypeError(
            f"measure gave no multipliers or no certificate for {type(bound).__name__}."
        )
    return _Point(found.primal, found.duals, found.kkt)


def _not_worse(after: Tensor, before: Tensor) -> Tensor:
    return (after <= before) | (after <= _ROUNDING * torch.finfo(after.dtype).eps)


def _choose(mask: Tensor, taken: _Point, kept: _Point) -> _Point:
    """Return, per sample of the mask (B,), the one point or the other."""
    return _Point(
        primal=torch.where(mask[:, None], taken.primal, kept.primal),
        duals=taken.duals.where(mask, kept.duals),
        kkt=taken.kkt.where(mask, kept.kkt),
    )
