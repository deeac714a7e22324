"""Run the rule's iteration on the graph: the modes unfold and unroll, and fixed_point_unfold's check."""

from __future__ import annotations

import time

import torch

from ... import hooks
from ...interfaces.rule import UpdateRule
from ...solution import Solution, Status
from ..call.inputs import Inputs
from ..call.verdicts import Verdicts
from ..parts import Parts
from .iterates import Iterates
from .record import answer, by_path, note_failures, recertified


def unfold(
    parts: Parts,
    rule: UpdateRule,
    inputs: Inputs,
    verdicts: Verdicts,
    warm_start: Solution | None,
    *,
    duals: bool,
) -> Solution:
    """Run the rule's iteration on the graph, from the warm start's primal or a cold one."""
    started = time.perf_counter()
    hooks.solve_started(parts.path, inputs.batch)
    program = parts.problem.bind(inputs.values, inputs.batch)
    bound = rule.bind(program, parts.inner)
    with torch.no_grad():
        state = bound.initial(None if warm_start is None else warm_start.primal).detach()
    bound = bound.at(state)
    iterates = Iterates(bound)
    point = iterates.run(state, parts.config.iterations)
    note_failures(parts, iterates.failed, iterates.inner, verdicts)
    x = bound.primal(point)
    carried = bound.duals(point)
    raw = Solution(
        primal=x.detach(),
        status=(Status.OPTIMAL,) * inputs.batch,
        duals=carried,
        iterations=(parts.config.iterations,) * inputs.batch,
        inner=by_path(iterates.inner, parts.path),
    )
    raw = recertified(parts, program, raw, verdicts)
    hooks.solve_finished(parts.path, raw, time.perf_counter() - started)
    return answer(program, bound, raw, x, point, duals=duals and inputs.needs_grad)
