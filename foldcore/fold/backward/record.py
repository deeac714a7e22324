"""Put a solution on the autograd graph: by one folded step, or by steps of the rule."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ... import hooks
from ...errors import AdjointError, AdjointWarning, ConfigError, name_samples
from ...interfaces.fixed_point_operator import FixedPointOperator
from ...interfaces.rule import BoundRule, UpdateRule
from ...optimality.duals import recover_duals
from ...program.lowering import Lowering
from ...program.program import SmoothProgram
from ...rules.linearise import one_step
from ...solution import Duals, Solution, Status
from ..call.certify import certify, check_fixed_point, check_kkt
from ..call.degeneracy import check_complementarity
from ..call.inputs import Inputs
from ..call.verdicts import Verdicts, repaired_inputs, with_donor_rows
from ..parts import Parts, polishes
from .adjoint_pass import AdjointPass
from .fixed_point import attach_fixed_point
from .iterates import Iterates
from .polish import polished
from .truncated_series import SeriesWatch

_DRIFT = 1e-3
"""Relative distance from the solution at which steps that should rest there have left it."""


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


def lift_fold(
    parts: Parts, rule: UpdateRule, inputs: Inputs, verdicts: Verdicts, raw: Solution
) -> LiftedFold:
    """Lift a solution to the rule's fixed point, and polish it as configured.

    Args:
        verdicts: Receives the samples whose polished point is rejected.
    """
    program = parts.problem.bind(inputs.values, inputs.batch)
    bound = rule.bind(program, parts.inner)
    with torch.no_grad():
        state = bound.lift(raw).detach()
        if polishes(parts):
            state, raw = polished(parts, program, bound, state, raw, verdicts)
    return LiftedFold(program, bound.at(state), state, raw)


def record_fold(parts: Parts, rule: UpdateRule, inputs: Inputs, raw: Solution) -> RecordedFold:
    """Lift a solution, polish it as configured, and record one step.

    Raises:
        SolveError: If certificate (a) rejects a polished sample.
    """
    verdicts = Verdicts(inputs.batch)
    lifted = lift_fold(parts, rule, inputs, verdicts, raw)
    verdicts.report(parts.subject, "raise")
    return record_step(lifted.program, lifted.bound, lifted.state)


def record_step(program: SmoothProgram, bound: BoundRule, state: Tensor) -> RecordedFold:
    """Record one step of a bound rule at a state (B, s)."""
    updated, operator = one_step(bound, state)
    residual = bound.residual(state, updated)
    return RecordedFold(program, bound, state, updated, operator, residual)


def fold_solution(
    parts: Parts,
    rule: UpdateRule,
    inputs: Inputs,
    verdicts: Verdicts,
    raw: Solution,
    *,
    duals: bool,
) -> Solution | None:
    """Wrap the solution into the fixed point of one step of the rule; None if no sample is left.

    Args:
        inputs: As given; failed samples are replaced here.
        raw: The solver's answer.
    """
    started = time.perf_counter()
    while True:
        known = verdicts.failed
        good = repaired_inputs(inputs, verdicts)
        lifted = lift_fold(parts, rule, good, verdicts, with_donor_rows(raw, verdicts))
        if verdicts.donor() is None:
            return None
        if verdicts.failed == known:
            break
        # A rejected point must not be recorded: it could turn the others' shared gradients into NaN.
    program, bound, raw = lifted.program, lifted.bound, lifted.solution
    recorded = record_step(program, bound, lifted.state)
    residual = recorded.residual
    reports = bound.inner_reports()
    note_failures(parts, bound.failed(), reports, verdicts)
    moves_on = parts.config.mode == "fixed_point_unfold"
    if raw.kkt is not None and polishes(parts) and not moves_on:
        check_kkt(raw.kkt, verdicts, parts.config.kkt, parts.subject)
    check_fixed_point(residual, lifted.state, verdicts, parts.config.fixed_point, parts.subject)
    if raw.kkt is not None and inputs.needs_grad:
        check_complementarity(raw.kkt, verdicts, parts.config.degeneracy, parts.subject)
    hooks.residual_checked(parts.path, residual, time.perf_counter() - started)
    point = _differentiable_point(parts, good, recorded)
    x = bound.primal(point)
    raw = replace(raw, fixed_point_residual=residual, inner=by_path(reports, parts.path))
    if polishes(parts) and moves_on:
        end = replace(raw, primal=x.detach(), duals=bound.duals(lifted.state))
        raw = recertified(parts, program, end, verdicts)
    return answer(program, bound, raw, x, point, duals=duals and inputs.needs_grad)


def _differentiable_point(parts: Parts, inputs: Inputs, recorded: RecordedFold) -> Tensor:
    if not recorded.updated.requires_grad:
        return recorded.state
    if parts.config.mode == "fixed_point_unfold":
        watch = SeriesWatch(partial(_report_series, parts))
        iterates = Iterates(recorded.bound)
        start = watch.start(recorded.state, _needing_grad(inputs))
        end = iterates.run(start, parts.config.iterations)
        _report_drift(parts, recorded.state, end.detach())
        return watch.end(end)
    adjoint = adjoint_pass(parts, inputs, recorded)
    return attach_fixed_point(recorded.updated, recorded.state, adjoint)


def _needing_grad(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(value for value in inputs.values.values() if value.requires_grad)


def _report_series(parts: Parts, remainder: Tensor, diverging: Tensor) -> None:
    """Act on samples for which the steps' backward pass grows instead of converging.

    Raises:
        AdjointError: If there are some and the policy is "raise".
    """
    _act_on_divergence(parts, diverging, f"remainder {float(remainder.max()):.1e}")


def _report_drift(parts: Parts, state: Tensor, end: Tensor) -> None:
    """Act on samples that the steps have moved away from the solution they started at.

    Raises:
        AdjointError: If there are some and the policy is "raise".
    """
    if not state.shape[-1]:
        return
    drift = (end - state).abs().amax(-1) / (1 + state.abs().amax(-1))
    _act_on_divergence(parts, ~(drift <= _DRIFT), f"drift {float(drift.max()):.1e}")


def _act_on_divergence(parts: Parts, diverging: Tensor, what: str) -> None:
    if not bool(diverging.any()):
        return
    samples = torch.nonzero(diverging).flatten().tolist()
    message = (
        f"{parts.subject}: fixed_point_unfold diverges for samples {name_samples(samples)}: {what} "
        f"after {parts.config.iterations} steps, so ρ(Φ) >= 1. Use mode: fold with gmres or direct, or "
        f"another step of the rule."
    )
    if parts.config.on_adjoint_failure == "raise":
        raise AdjointError(message, samples)
    warnings.warn(message, AdjointWarning, stacklevel=2)


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
        parameters=_needing_grad(inputs),
        names=tuple(name for name, value in inputs.values.items() if value.requires_grad),
        bound=recorded.bound,
        degeneracy=parts.config.degeneracy,
    )


def note_failures(
    parts: Parts, singular: Tensor | None, reports: Mapping[str, Solution], verdicts: Verdicts
) -> None:
    """Take over what failed in steps of the rule: its own systems, and its inner folds."""
    if singular is not None:
        name = type(parts.rule).__name__
        verdicts.fail(singular, Status.NUMERICAL, f"{name}: singular update step")
    for name, report in reports.items():
        status = [s if s.ok else Status.INNER_FAILURE for s in report.status]
        verdicts.merge(status, report.messages, f"rule.{name}")


def recertified(
    parts: Parts, program: SmoothProgram, raw: Solution, verdicts: Verdicts
) -> Solution:
    """Return a point with certificate (a), rejected and acted on, in the original's variables."""
    with torch.no_grad():
        lowering = Lowering(program)
        certified = certify(lowering, raw, verdicts, parts.config.kkt, parts.subject)
        return lowering.restrict(certified)


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
    parts: Parts, raw: Solution, answer: Solution | None, inputs: Inputs, *, duals: bool
) -> Solution:
    """Put the differentiable solver's own primal, on the graph, into the certified solution."""
    if answer is None or not answer.primal.requires_grad:
        return raw
    primal = answer.primal[:, : parts.problem.n]
    if not duals:
        return replace(raw, primal=primal)
    program = parts.problem.bind(inputs.values, inputs.batch)
    return replace(raw, primal=primal, duals=recovered_duals(program, raw, primal))
