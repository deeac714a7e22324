"""The forward pass: run the black box, certify its answer, replace the samples that failed."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from .. import hooks
from ..errors import ConfigError, RecognitionError
from ..interfaces.solver import IterationMap
from ..program.lowering import Lowering
from ..program.program import SmoothProgram
from ..solution import Solution, Status
from .call.bound_call import Call
from .call.certify import certify, measure
from .call.inputs import Inputs
from .call.verdicts import settled, with_donor_rows
from .parts import Parts
from .sessions import bound_rule, session_for


def solve_black_box(
    parts: Parts, call: Call, warm_start: Solution | None, *, recorded: bool = False
) -> tuple[Solution | None, Solution | None]:
    """Run the black box and certify its answer; where the fold polishes, measure the certificate only.

    Args:
        call: The arguments; receives the samples that fail.
        recorded: The solver is differentiable and its answer shall carry gradients.

    Returns:
        The certified solution, detached, with failed samples replaced; None if no sample is
        left. And the solver's own answer, on the graph if ``recorded``.
    """
    started = time.perf_counter()
    hooks.solve_started(parts.path, call.given.batch)

    def attempt() -> tuple[Solution | None, Solution]:
        bound = call.bound()
        with torch.set_grad_enabled(recorded):
            lowering = Lowering(bound.program) if recorded else bound.lowering
            answer = _ask_solver(parts, lowering, bound.inputs, warm_start)
        with torch.no_grad():
            return _certified(parts, bound.lowering, answer, call), answer

    found = settled(call.verdicts, attempt) if recorded else attempt()
    if found is None or found[0] is None:
        return None, None
    hooks.solve_finished(parts.path, found[0], time.perf_counter() - started)
    return found


def _ask_solver(
    parts: Parts, lowering: Lowering, inputs: Inputs, warm_start: Solution | None
) -> Solution:
    structure = parts.problem.lowered_structure
    session = session_for(parts.owner, parts.solver, structure, (inputs.dtype, inputs.device))
    capabilities, as_declared = parts.solver.capabilities, parts.as_declared
    if warm_start is not None and not as_declared:
        warm_start = lowering.complete_start(warm_start)
    answer = session.solve(
        lowering.original if as_declared else lowering.program,
        changed=frozenset(structure.template.varying),
        warm_start=warm_start if capabilities.warm_start else None,
        iteration=_iteration(parts, lowering.original) if capabilities.needs_rule else None,
    )
    if as_declared and lowering.original.regularizers:
        # Multipliers of the declared rows are not those of the lowered program: recover them.
        answer = replace(answer, duals=None)
    return answer


def _certified(parts: Parts, lowering: Lowering, answer: Solution, call: Call) -> Solution | None:
    inputs, verdicts = call.given, call.verdicts
    raw = replace(answer, primal=answer.primal.detach().to(inputs.device, inputs.dtype))
    verdicts.merge(raw.status, raw.messages, type(parts.solver).__name__)
    if not bool(torch.isfinite(raw.primal.sum())):  # a finite sum has finite terms
        nonfinite = ~torch.isfinite(raw.primal).all(-1)
        verdicts.fail(nonfinite, Status.NUMERICAL, "the solver returned NaN or inf")
    if verdicts.dead:
        return None
    if not verdicts.clean:
        raw = with_donor_rows(raw, verdicts)
    mismatch = lowering.original.asserted_mismatch(raw.primal[:, : parts.n])
    if mismatch is not None:
        raise RecognitionError(
            f"{parts.subject}: the asserted structure does not hold: the {mismatch} is not "
            f"the quadratic that was extracted. Leave out structure=."
        )
    if parts.polishes:
        # Judged after polishing: an answer that is only rough is none that has failed.
        return lowering.restrict(measure(lowering, raw, verdicts))
    raw = certify(lowering, raw, verdicts, parts.config.kkt, parts.subject)
    if verdicts.failures:
        if verdicts.donor() is None:
            return None
        raw = with_donor_rows(raw, verdicts)
    return lowering.restrict(raw) if lowering.changes else raw


def _iteration(parts: Parts, program: SmoothProgram) -> IterationMap:
    if parts.rule is None:
        raise ConfigError(f"{parts.subject}: this solver runs an update rule, but there is none.")
    bound = bound_rule(parts, parts.rule, program)
    return IterationMap(
        start=bound.initial,
        step=bound.step,
        residual=bound.residual,
        primal=bound.primal,
        duals=bound.duals,
        failed=bound.failed,
    )
