"""Run the rule's iteration on the graph from a starting point: the modes unfold and unroll."""

from __future__ import annotations

import time

import torch

from ... import hooks
from ...interfaces.rule import UpdateRule
from ...solution import Solution, Status
from ..call.bound_call import Call
from ..call.verdicts import settled
from ..parts import Parts
from ..sessions import bound_rule
from .iterates import Iterates
from .record import answer, by_path, note_failures, recertified


def unfold(
    parts: Parts,
    rule: UpdateRule,
    call: Call,
    warm_start: Solution | None,
    *,
    duals: bool,
) -> Solution | None:
    """Run the rule's iteration on the graph, from the warm start's primal or a cold one.

    Returns:
        The solution; None if no sample is left.
    """

    def attempt() -> Solution:
        return _unfolded(parts, rule, call, warm_start, duals=duals)

    # Without a gradient a sample that overflowed harms no other.
    return settled(call.verdicts, attempt) if call.given.needs_grad else attempt()


def _unfolded(
    parts: Parts,
    rule: UpdateRule,
    call: Call,
    warm_start: Solution | None,
    *,
    duals: bool,
) -> Solution:
    started = time.perf_counter()
    bound_call, verdicts = call.bound(), call.verdicts
    batch, config = call.given.batch, parts.config
    hooks.solve_started(parts.path, batch)
    bound = bound_rule(parts, rule, bound_call.program)
    with torch.no_grad():
        state = bound.initial(None if warm_start is None else warm_start.primal).detach()
    bound = bound.at(state)
    iterates = Iterates(bound)
    point = iterates.run(state, config.iterations)
    note_failures(parts, iterates.failed, iterates.inner, verdicts)
    x = bound.primal(point)
    carried = bound.duals(point)
    raw = Solution(
        primal=x.detach(),
        status=(Status.OPTIMAL,) * batch,
        duals=carried,
        iterations=(config.iterations,) * batch,
        inner=by_path(iterates.inner, parts.path),
    )
    raw = recertified(parts, bound_call.lowering, raw, verdicts)
    hooks.solve_finished(parts.path, raw, time.perf_counter() - started)
    needs_grad = call.given.needs_grad
    return answer(bound_call.program, bound, raw, x, point, duals=duals and needs_grad)
