"""Fold: a parametric problem as a differentiable layer; runs the picture of data flow once per call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from . import hooks
from .adjoint_pass import AdjointPass
from .certify import certify, check_fixed_point
from .config import FoldConfig
from .duals import recover_duals
from .errors import ConfigError, RecognitionError
from .fixed_point import RecordedStep, attach_fixed_point
from .inputs import Inputs, collect
from .interfaces.adjoint_solver import AdjointSolver, FixedPointOperator
from .interfaces.solver_interface import IterationMap, Solver
from .interfaces.update_rule import BoundRule, UpdateRule
from .lowering import Lowering
from .outcome import Outcome
from .prechecks import find_bad_samples
from .problem_base import ParametricProblem
from .program import SmoothProgram
from .repair import dead_solution, masked, repaired_inputs, squeeze, with_donor_rows
from .sessions import session_for
from .solution import Solution, Status


class Fold(nn.Module):
    """A differentiable layer x*(θ) = argmin f(x, θ) subject to constraints.

    Invariant: the forward value is the solver's (polished on request); the gradient is that of the
    update rule's fixed point at this value, from one recorded step. No state is kept between calls.

    Use :func:`foldcore.build` to make one.

    Args:
        problem: The problem.
        solver: The black box.
        rule: The update rule; None only where the solver is itself differentiable.
        adjoint: The adjoint solver; None likewise.
        config: Tolerances and policies.
        path: Path of this fold in the configuration, "" for the outermost.
        inner: Folds of the rule's inner problems, by name.
    """

    def __init__(
        self,
        problem: ParametricProblem,
        *,
        solver: Solver,
        rule: UpdateRule | None,
        adjoint: AdjointSolver | None,
        config: FoldConfig,
        path: str,
        inner: Mapping[str, Fold],
    ) -> None:
        super().__init__()
        self.problem = problem
        self.solver = solver
        self.rule = rule
        self.adjoint = adjoint
        self.config = config
        self.path = path
        self.inner = nn.ModuleDict(inner)
        self._constant_names = tuple(problem.constants)
        for name, value in problem.constants.items():
            self.register_buffer(_buffer_name(name), value, persistent=False)
        for name, param in problem.params.items():
            if param.init is not None:
                self.register_parameter(name, nn.Parameter(param.init.detach().clone()))
        for name, module in problem.modules.items():
            self.add_module(name, module)

    def extra_repr(self) -> str:
        parts = {"solver": self.solver, "rule": self.rule, "adjoint": self.adjoint}
        return ", ".join(f"{k}={type(v).__name__}" for k, v in parts.items() if v is not None)

    @property
    def subject(self) -> str:
        """How messages name this fold."""
        return f"foldcore layer at {self.path}" if self.path else "foldcore layer"

    def forward(self, *, warm_start: Solution | None = None, **params: Tensor) -> Tensor:
        """Return x*, (B, n), or (n,) if no parameter is batched; differentiable in every parameter.

        Args:
            warm_start: An earlier solution of the same batch, for solvers that use one.
            **params: One tensor per declared parameter, ``(*shape)`` or ``(B, *shape)``.

        Raises:
            InputError: If an argument is wrong (see its subclasses).
            SolveError: If a sample failed and ``on_failure`` is "raise".
            CertificateError: If a certificate is exceeded and its policy is "raise".
        """
        return self._call(params, warm_start, duals=False).primal

    def solve(self, *, warm_start: Solution | None = None, **params: Tensor) -> Solution:
        """Return the whole :class:`Solution`: primal, differentiable duals, statuses, certificates.

        Arguments and errors are those of :meth:`forward`.
        """
        return self._call(params, warm_start, duals=True)

    def solve_inner(self, values: Mapping[str, Tensor], *, duals: bool = False) -> Solution:
        """Solve as an inner problem of an update rule; see :class:`InnerFold`."""
        inputs = collect(self.problem.params, values, self._owned(), self.subject)
        outcome = Outcome(inputs.batch)
        return self._run(inputs, outcome, None, duals=duals, filler=0.0, strict=False)

    def _call(
        self, params: Mapping[str, Tensor], warm_start: Solution | None, *, duals: bool
    ) -> Solution:
        inputs = collect(self.problem.params, params, self._owned(), self.subject)
        outcome = Outcome(inputs.batch)
        strict = self.config.on_failure == "raise"
        if warm_start is not None and warm_start.duals is not None:
            given = self.problem.order_duals(warm_start.duals, inverse=True)
            warm_start = replace(warm_start, duals=given)
        solution = self._run(
            inputs, outcome, warm_start, duals=duals, filler=float("nan"), strict=strict
        )
        outcome.report(self.subject, self.config.on_failure)
        if solution.duals is not None:
            solution = replace(solution, duals=self.problem.order_duals(solution.duals))
        return solution if inputs.batched else squeeze(solution)

    def _owned(self) -> Mapping[str, Tensor]:
        owned = {name: getattr(self, _buffer_name(name)) for name in self._constant_names}
        for name, param in self.problem.params.items():
            if param.learnable:
                owned[name] = getattr(self, name)
        for prefix in self.problem.modules:
            module = getattr(self, prefix)
            for name, value in (*module.named_parameters(), *module.named_buffers()):
                owned[f"{prefix}.{name}"] = value
        return owned

    def _run(
        self,
        inputs: Inputs,
        outcome: Outcome,
        warm_start: Solution | None,
        *,
        duals: bool,
        filler: float,
        strict: bool,
    ) -> Solution:
        find_bad_samples(
            self.problem, self.solver, inputs, outcome, subject=self.subject, strict=strict
        )
        raw = None
        if outcome.donor() is not None:
            raw = self._solve_raw(repaired_inputs(inputs, outcome), outcome, warm_start)
        if raw is None or outcome.donor() is None:
            return dead_solution(inputs, self.problem.n, outcome, filler)
        good = repaired_inputs(inputs, outcome)
        if self.rule is None:
            solution = self._differentiable(good, outcome, raw, duals=duals)
        elif good.needs_grad or self.config.fixed_point.polish:
            solution = self._fold(self.rule, good, outcome, raw, duals=duals)
        else:
            solution = raw
        return masked(solution, outcome, inputs.device, filler)

    def _solve_raw(
        self, inputs: Inputs, outcome: Outcome, warm_start: Solution | None
    ) -> Solution | None:
        """Run the black box without gradient and certify its answer; None if no sample is left."""
        started = time.perf_counter()
        hooks.solve_started(self.path, inputs.batch)
        with torch.no_grad():
            program = self.problem.bind(inputs.detached(), inputs.batch)
            lowering = Lowering(program)
            session = session_for(
                self, self.solver, self.problem.lowered_structure, (inputs.dtype, inputs.device)
            )
            needs_rule = self.solver.capabilities.needs_rule
            raw = session.solve(
                program if needs_rule else lowering.program,
                changed=frozenset(self.problem.lowered_structure.template.varying),
                warm_start=warm_start if self.solver.capabilities.warm_start else None,
                iteration=self._iteration(program) if needs_rule else None,
            )
            raw = replace(raw, primal=raw.primal.detach().to(inputs.device, inputs.dtype))
            outcome.merge(raw.status, raw.messages, type(self.solver).__name__)
            nonfinite = ~torch.isfinite(raw.primal).all(-1)
            outcome.fail(nonfinite, Status.NUMERICAL, "the solver returned NaN or inf")
            if outcome.donor() is None:
                return None
            raw = with_donor_rows(raw, outcome)
            mismatch = program.asserted_mismatch(raw.primal[:, : program.n])
            if mismatch is not None:
                raise RecognitionError(
                    f"{self.subject}: the asserted structure does not hold: the {mismatch} is not "
                    f"the quadratic that was extracted. Leave out structure=."
                )
            raw = certify(lowering, raw, outcome, self.config.kkt, self.subject)
            if outcome.donor() is None:
                return None
            raw = lowering.restrict(with_donor_rows(raw, outcome))
        hooks.solve_finished(self.path, raw, time.perf_counter() - started)
        return raw

    def _iteration(self, program: SmoothProgram) -> IterationMap:
        if self.rule is None:
            raise ConfigError(
                f"{self.subject}: this solver runs an update rule, but there is none."
            )
        bound = self.rule.bind(program, self._inner_folds())
        return IterationMap(
            start=bound.initial,
            step=bound.step,
            residual=bound.residual,
            primal=bound.primal,
            duals=bound.duals,
        )

    def _inner_folds(self) -> dict[str, Fold]:
        return {name: cast(Fold, fold) for name, fold in self.inner.items()}

    def _differentiable(
        self, inputs: Inputs, outcome: Outcome, raw: Solution, *, duals: bool
    ) -> Solution:
        """Solve on the graph with a solver that is itself differentiable."""
        if not inputs.needs_grad:
            return raw
        lowering = Lowering(self.problem.bind(inputs.values, inputs.batch))
        program = lowering.program
        structure = self.problem.lowered_structure
        session = session_for(self, self.solver, structure, (inputs.dtype, inputs.device))
        answer = session.solve(program, changed=frozenset(structure.template.varying))
        outcome.merge(answer.status, answer.messages, type(self.solver).__name__)
        multipliers = recover_duals(program, answer.primal).duals if duals else None
        answer = lowering.restrict(replace(answer, duals=multipliers))
        return replace(raw, primal=answer.primal, duals=answer.duals)

    def _fold(
        self, rule: UpdateRule, inputs: Inputs, outcome: Outcome, raw: Solution, *, duals: bool
    ) -> Solution:
        """Wrap the solution into the fixed point of one step of the rule."""
        started = time.perf_counter()
        program = self.problem.bind(inputs.values, inputs.batch)
        bound = rule.bind(program, self._inner_folds())
        with torch.no_grad():
            state = bound.lift(raw).detach()
            for _ in range(self.config.fixed_point.polish):
                state = bound.step(state)
        bound = bound.at(state)
        updated, operator = _one_step(bound, state)
        residual = bound.residual(state, updated)
        failed = bound.failed()
        if failed is not None:
            outcome.fail(failed, Status.NUMERICAL, f"{type(rule).__name__}: singular update step")
        reports = bound.inner_reports()
        for name, report in reports.items():
            outcome.merge(
                [s if s.ok else Status.INNER_FAILURE for s in report.status],
                report.messages,
                f"rule.{name}",
            )
        check_fixed_point(residual, state, outcome, self.config.fixed_point, self.subject)
        hooks.residual_checked(self.path, residual, time.perf_counter() - started)
        point = state
        if updated.requires_grad:
            if self.adjoint is None:
                raise ConfigError(f"{self.subject}: a rule needs an adjoint solver.")
            policy = self.config.on_adjoint_failure
            adjoint = AdjointPass(self.adjoint, operator, policy, self.path, self.subject)
            point = attach_fixed_point(updated, state, adjoint)
        x = bound.primal(point)
        raw = replace(raw, fixed_point_residual=residual, inner=_by_path(reports, self.path))
        if self.config.fixed_point.polish:
            with torch.no_grad():
                carried = bound.duals(state)
                polished = replace(raw, primal=x.detach(), duals=carried)
                lowering = Lowering(program)
                raw = lowering.restrict(
                    certify(lowering, polished, outcome, self.config.kkt, self.subject)
                )
        multipliers = raw.duals
        if duals and inputs.needs_grad:
            carried = bound.duals(point)
            multipliers = carried
            if carried is None:
                lowering = Lowering(program)
                recovered = recover_duals(lowering.program, lowering.complete(x))
                point_of_x = replace(raw, primal=x, duals=recovered.duals)
                multipliers = lowering.restrict(point_of_x).duals
        return replace(raw, primal=x, duals=multipliers)


def _one_step(bound: BoundRule, state: Tensor) -> tuple[Tensor, FixedPointOperator]:
    """Evaluate one step of the rule on the graph and return it with its Jacobian Φ."""
    known = bound.jacobian(state)
    if known is not None:
        return bound.step(state), known
    leaf = state.detach().requires_grad_(torch.is_grad_enabled())
    updated = bound.step(leaf)
    return updated, RecordedStep(leaf, updated)


def _by_path(reports: Mapping[str, Solution], path: str) -> dict[str, Solution]:
    prefix = f"{path}." if path else ""
    found: dict[str, Solution] = {}
    for name, report in reports.items():
        found[f"{prefix}rule.{name}"] = report
        found.update(report.inner)
    return found


def _buffer_name(name: str) -> str:
    return "constant_" + name.replace(".", "_")
