"""Put a solution on the autograd graph: by one folded step, or by steps of the rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ... import hooks
from ...errors import ConfigError
from ...interfaces.fixed_point_operator import FixedPointOperator
from ...interfaces.rule import BoundRule, UpdateRule
from ...kkt import kinked
from ...optimality.duals import recover_duals
from ...program.lowering import Lowering
from ...program.program import SmoothProgram
from ...rules.linearise import one_step
from ...solution import Duals, Solution, Status
from ..call.bound_call import Call
from ..call.certify import certify, check_fixed_point, check_kkt, check_saddles
from ..call.degeneracy import check_complementarity, undecided
from ..call.inputs import Inputs
from ..call.verdicts import Verdicts, settled, with_donor_rows
from ..parts import Parts
from ..sessions import bound_rule
from .adjoint_pass import AdjointPass
from .fixed_point import attach_fixed_point
from .polish import polished
from .truncated_series import unfold_series


@dataclass(frozen=True)
class RecordedFold:
    """One step of a rule, evaluated on the graph at a solution.

    Attributes:
        program, bound: The bound problem and rule.
        state: z*, detached. Shape (B, s).
        updated: U(z*, θ), on the graph. Shape (B, s).
        operator: Φ at z*.
        residual: Certificate (b). Shape (B,).
    """

    program: SmoothProgram
    bound: BoundRule
    state: Tensor
    updated: Tensor
    operator: FixedPointOperator
    residual: Tensor


@dataclass(frozen=True)
class LiftedFold:
    """A rule at the point that will be differentiated.

    Attributes:
        program, bound: The bound problem and rule.
        state: z*, polished as configured. Shape (B, s).
        solution: The answer, polished likewise, with its certificate (a).
    """

    program: SmoothProgram
    bound: BoundRule
    state: Tensor
    solution: Solution


def lift_fold(parts: Parts, rule: UpdateRule, call: Call, raw: Solution) -> LiftedFold:
    """Lift a solution to the rule's fixed point, and polish it as configured.

    Args:
        call: The arguments; receives the samples whose polished point is rejected.
        raw: The solver's answer; failed samples are replaced here.
    """
    bound_call = call.bound()
    program = bound_call.program
    bound = bound_rule(parts, rule, program)
    with torch.no_grad():
        if not call.verdicts.clean:
            raw = with_donor_rows(raw, call.verdicts)
        state = bound.lift(raw).detach()
        if parts.polishes:
            state, raw = polished(parts, bound_call.lowering, bound, state, raw, call.verdicts)
        elif rule.decides_active_set and raw.kkt is not None:
            doubtful = undecided(raw.kkt)
            if bool(doubtful.any()):
                state, raw = polished(
                    parts, bound_call.lowering, bound, state, raw, call.verdicts, doubtful
                )
    return LiftedFold(program, bound.at(state), state, raw)


def record_fold(parts: Parts, rule: UpdateRule, call: Call, raw: Solution) -> RecordedFold:
    """Lift a solution, polish it as configured, and record one step.

    Raises:
        SolveError: If certificate (a) rejects a polished sample.
    """
    lifted = lift_fold(parts, rule, call, raw)
    call.verdicts.report(parts.subject, "raise")
    return record_step(lifted.program, lifted.bound, lifted.state)


def record_step(program: SmoothProgram, bound: BoundRule, state: Tensor) -> RecordedFold:
    """Record one step of a bound rule at a state (B, s)."""
    updated, operator = one_step(bound, state)
    residual = bound.residual(state, updated)
    return RecordedFold(program, bound, state, updated, operator, residual)


def fold_solution(
    parts: Parts, rule: UpdateRule, call: Call, raw: Solution, *, duals: bool
) -> Solution | None:
    """Wrap the solution into the fixed point of one step of the rule; None if no sample is left.

    Args:
        call: The arguments; receives the samples that fail.
        raw: The solver's answer.
    """
    started = time.perf_counter()
    lifted = settled(call.verdicts, lambda: lift_fold(parts, rule, call, raw))
    if lifted is None:
        return None
    bound, raw, config = lifted.bound, lifted.solution, parts.config
    recorded = record_step(lifted.program, bound, lifted.state)
    residual, verdicts, needs_grad = recorded.residual, call.verdicts, call.given.needs_grad
    # As bound for the step on the graph: a sample that fails from here on is masked, not bound again.
    bound_call = call.bound()
    reports = bound.inner_reports()
    note_failures(parts, bound.failed(), reports, verdicts, bound.failure)
    check_saddles(bound.saddles(), verdicts, config.kkt, parts.subject)
    moves_on = config.mode == "fixed_point_unfold"
    if raw.kkt is not None and parts.polishes and not moves_on:
        check_kkt(raw.kkt, verdicts, config.kkt, parts.subject)
    check_fixed_point(residual, lifted.state, verdicts, config.fixed_point, parts.subject)
    if raw.kkt is not None and needs_grad:
        check_complementarity(
            raw.kkt, verdicts, config.degeneracy, parts.subject, _kinks_at(lifted)
        )
    hooks.residual_checked(parts.path, residual, time.perf_counter() - started)
    point = _differentiable_point(parts, bound_call.inputs, recorded)
    x = bound.primal(point)
    raw = replace(raw, fixed_point_residual=residual)
    if reports:
        raw = replace(raw, inner=by_path(reports, parts.path))
    if parts.polishes and moves_on:
        end = replace(raw, primal=x.detach(), duals=bound.duals(lifted.state))
        raw = recertified(parts, bound_call.lowering, end, verdicts)
    return answer(lifted.program, bound, raw, x, point, duals=duals and needs_grad)


def _kinks_at(lifted: LiftedFold) -> Callable[[Tensor], dict[int, str]]:
    program, point = lifted.program, lifted.solution
    duals = program.pad_duals(point.duals)
    return lambda tolerance: kinked(program, point.primal, duals, tolerance)


def _differentiable_point(parts: Parts, inputs: Inputs, recorded: RecordedFold) -> Tensor:
    if not recorded.updated.requires_grad:
        return recorded.state
    if parts.config.mode == "fixed_point_unfold":
        return unfold_series(
            parts, recorded.bound, recorded.state, tuple(inputs.needing_grad.values())
        )
    adjoint = adjoint_pass(parts, inputs, recorded)
    return attach_fixed_point(recorded.updated, recorded.state, adjoint)


def adjoint_pass(parts: Parts, inputs: Inputs, recorded: RecordedFold) -> AdjointPass:
    """Return the backward pass of a recorded fold.

    Raises:
        ConfigError: If the fold has no adjoint solver.
    """
    if parts.adjoint is None:
        raise ConfigError(f"{parts.subject}: a rule needs an adjoint solver.")
    return AdjointPass(
        solver=parts.adjoint,
        operator=recorded.operator,
        policy=parts.config.on_adjoint_failure,
        path=parts.path,
        subject=parts.subject,
        updated=recorded.updated,
        parameters=inputs.needing_grad,
        bound=recorded.bound,
        degeneracy=parts.config.degeneracy,
    )


def note_failures(
    parts: Parts,
    singular: Tensor | None,
    reports: Mapping[str, Solution],
    verdicts: Verdicts,
    failure: str = BoundRule.failure,
) -> None:
    """Take over what failed in steps of the rule: its own systems, and its inner folds."""
    if singular is not None:
        verdicts.fail(singular, Status.NUMERICAL, f"{type(parts.rule).__name__}: {failure}")
    for name, report in reports.items():
        status = [s if s.ok else Status.INNER_FAILURE for s in report.status]
        verdicts.merge(status, report.messages, f"rule.{name}")


def recertified(parts: Parts, lowering: Lowering, raw: Solution, verdicts: Verdicts) -> Solution:
    """Return a point with certificate (a), rejected and acted on, in the original's variables."""
    with torch.no_grad():
        return lowering.restrict(certify(lowering, raw, verdicts, parts.config.kkt, parts.subject))


def answer(
    program: SmoothProgram,
    bound: BoundRule,
    raw: Solution,
    x: Tensor,
    point: Tensor,
    *,
    duals: bool,
) -> Solution:
    """Return the solution with primal, and on request duals, on the graph."""
    if not duals:
        return replace(raw, primal=x)
    carried = bound.duals(point)
    multipliers = recovered_duals(program, raw, x) if carried is None else carried
    return replace(raw, primal=x, duals=multipliers)


def recovered_duals(program: SmoothProgram, raw: Solution, x: Tensor) -> Duals | None:
    """Return multipliers recovered at x, on the graph."""
    lowering = Lowering(program)
    recovered = recover_duals(lowering.program, lowering.complete(x))
    return lowering.restrict(replace(raw, primal=x, duals=recovered.duals)).duals


def by_path(reports: Mapping[str, Solution], path: str) -> dict[str, Solution]:
    """Return inner reports, of any depth, under their paths in the configuration."""
    prefix = f"{path}." if path else ""
    found: dict[str, Solution] = {}
    for name, report in reports.items():
        found[f"{prefix}rule.{name}"] = report
        found.update(report.inner)
    return found


def with_live_primal(
    parts: Parts, raw: Solution, answer: Solution | None, call: Call, *, duals: bool
) -> Solution:
    """Put the differentiable solver's own primal, on the graph, into the certified solution."""
    if answer is None or not answer.primal.requires_grad:
        return raw
    primal = answer.primal[:, : parts.problem.n]
    if not duals:
        return replace(raw, primal=primal)
    return replace(raw, primal=primal, duals=recovered_duals(call.bound().program, raw, primal))
