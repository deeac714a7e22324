"""Fold: a parametric problem as a differentiable layer; runs the picture of data flow once per call."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from . import hooks
from .certificate import kkt_report
from .config import FoldConfig
from .duals import recover_duals
from .errors import (
    AdjointError,
    AdjointWarning,
    CertificateError,
    CertificateWarning,
    InputError,
    name_samples,
)
from .fixed_point import RecordedStep, attach_fixed_point
from .inputs import Inputs, collect
from .interfaces.adjoint_solver import AdjointSolver, FixedPointOperator
from .interfaces.solver_interface import IterationMap, Solver
from .interfaces.update_rule import BoundRule, UpdateRule
from .outcome import Outcome
from .prechecks import find_bad_samples
from .problem_base import ParametricProblem
from .program import SmoothProgram
from .sessions import session_for
from .solution import Duals, KKTReport, Solution, Status


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
        solution = self._run(
            inputs, outcome, warm_start, duals=duals, filler=float("nan"), strict=strict
        )
        outcome.report(self.subject, self.config.on_failure)
        if not inputs.batched:
            return _squeeze(solution)
        return solution

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
        if outcome.donor is not None:
            raw = self._solve_raw(self._repaired(inputs, outcome), outcome, warm_start)
        if raw is None or outcome.donor is None:
            return _dead_solution(inputs, self.problem.n, outcome, filler)
        good = self._repaired(inputs, outcome)
        if self.rule is None:
            solution = self._differentiable(good, outcome, raw, duals=duals)
        elif good.needs_grad or self.config.fixed_point.polish:
            solution = self._fold(self.rule, good, outcome, raw, duals=duals)
        else:
            solution = raw
        return _masked(solution, outcome, inputs.device, filler)

    @staticmethod
    def _repaired(inputs: Inputs, outcome: Outcome) -> Inputs:
        """Replace failed samples by a good one, so that they can harm nothing shared."""
        if outcome.failed and outcome.donor is not None and inputs.batched:
            return inputs.with_donor(outcome.mask(inputs.device), outcome.donor)
        return inputs

    def _solve_raw(
        self, inputs: Inputs, outcome: Outcome, warm_start: Solution | None
    ) -> Solution | None:
        """Run the black box without gradient and certify its answer; None if no sample is left."""
        started = time.perf_counter()
        hooks.solve_started(self.path, inputs.batch)
        with torch.no_grad():
            program = self.problem.bind(inputs.detached(), inputs.batch)
            lowered = program.lowered()
            session = session_for(
                self, self.solver, self.problem.lowered_structure, (inputs.dtype, inputs.device)
            )
            needs_rule = self.solver.capabilities.needs_rule
            raw = session.solve(
                program if needs_rule else lowered,
                changed=frozenset(self.problem.lowered_structure.template.varying),
                warm_start=warm_start if self.solver.capabilities.warm_start else None,
                iteration=self._iteration(program) if needs_rule else None,
            )
            raw = replace(raw, primal=raw.primal.detach().to(inputs.device, inputs.dtype))
            outcome.merge(raw.status, raw.messages, type(self.solver).__name__)
            raw = self._reject_nonfinite(raw, outcome)
            if outcome.donor is None:
                return None
            raw = _with_donor_rows(raw, outcome)
            raw = self._certify(lowered, raw, outcome)
            if outcome.donor is None:
                return None
            raw = _with_donor_rows(raw, outcome)
        hooks.solve_finished(self.path, raw, time.perf_counter() - started)
        return raw

    def _iteration(self, program: SmoothProgram) -> IterationMap:
        if self.rule is None:
            raise InputError(f"{self.subject}: this solver runs an update rule, but there is none.")
        bound = self.rule.bind(program, self._inner_folds())
        return IterationMap(
            start=bound.initial,
            step=bound.step,
            residual=bound.residual,
            primal=bound.primal,
            duals=bound.duals,
        )

    def _inner_folds(self) -> dict[str, Fold]:
        return {name: fold for name, fold in self.inner.items() if isinstance(fold, Fold)}

    def _reject_nonfinite(self, raw: Solution, outcome: Outcome) -> Solution:
        wrong = ~torch.isfinite(raw.primal).all(-1)
        if bool(wrong.any()):
            outcome.fail(wrong, Status.NUMERICAL, "the solver returned NaN or inf")
        return raw

    def _certify(self, program: SmoothProgram, raw: Solution, outcome: Outcome) -> Solution:
        """Attach certificate (a) and turn samples that it rejects into failures."""
        point = program.complete(raw.primal)
        report, duals = kkt_report(program, point, raw.duals)
        eps = torch.finfo(point.dtype).eps
        residual = report.residual
        limit = max(self.config.kkt.reject_above, 1e5 * eps)
        rejected = ~(residual <= limit)
        if bool(rejected.any()):
            self._name_rejected(report, rejected, outcome)
        exceeded = (residual > max(self.config.kkt.atol, 1e4 * eps)) & ~rejected
        _act_on(
            self.config.kkt.on_violation,
            exceeded & ~outcome.mask(point.device),
            residual,
            f"{self.subject}: scaled KKT residual above kkt.atol",
            "Tighten the solver's tolerances, set fixed_point.polish, or loosen kkt.atol.",
        )
        return replace(raw, primal=point[:, : self.problem.n], duals=duals, kkt=report)

    @staticmethod
    def _name_rejected(report: KKTReport, rejected: Tensor, outcome: Outcome) -> None:
        for i in torch.nonzero(rejected).flatten().tolist():
            outcome.fail_one(
                i,
                Status.INACCURATE,
                f"KKT residual: stationarity {float(report.stationarity[i]):.1e}, "
                f"primal {float(report.primal[i]):.1e}, dual {float(report.dual[i]):.1e}, "
                f"complementarity {float(report.complementarity[i]):.1e}",
            )

    def _differentiable(
        self, inputs: Inputs, outcome: Outcome, raw: Solution, *, duals: bool
    ) -> Solution:
        """Solve on the graph with a solver that is itself differentiable."""
        if not inputs.needs_grad:
            return raw
        program = self.problem.bind(inputs.values, inputs.batch).lowered()
        structure = self.problem.lowered_structure
        session = session_for(self, self.solver, structure, (inputs.dtype, inputs.device))
        answer = session.solve(program, changed=frozenset(structure.template.varying))
        outcome.merge(answer.status, answer.messages, type(self.solver).__name__)
        multipliers = recover_duals(program, answer.primal).duals if duals else raw.duals
        return replace(raw, primal=answer.primal[:, : self.problem.n], duals=multipliers)

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
        self._check_fixed_point(residual, state, outcome)
        hooks.residual_checked(self.path, residual, time.perf_counter() - started)
        point = state
        if updated.requires_grad:
            point = attach_fixed_point(
                updated, state, lambda g: self._solve_adjoint(operator, g)
            )
        x = bound.primal(point)
        raw = replace(raw, fixed_point_residual=residual, inner=_by_path(reports, self.path))
        if self.config.fixed_point.polish:
            with torch.no_grad():
                carried = bound.duals(state)
                polished = replace(raw, primal=x.detach(), duals=carried)
                raw = self._certify(program.lowered(), polished, outcome)
        multipliers = raw.duals
        if duals and inputs.needs_grad:
            carried = bound.duals(point)
            multipliers = recover_duals(program, x).duals if carried is None else carried
        return replace(raw, primal=x, duals=multipliers)

    def _check_fixed_point(self, residual: Tensor, state: Tensor, outcome: Outcome) -> None:
        config = self.config.fixed_point
        atol = max(config.atol, 1e4 * torch.finfo(state.dtype).eps)
        size = 1 + (state.abs().amax(-1) if state.shape[-1] else torch.zeros_like(residual))
        exceeded = ~(residual / size <= atol) & ~outcome.mask(state.device)
        _act_on(
            config.on_violation,
            exceeded,
            residual / size,
            f"{self.subject}: the solution is not a fixed point of the update rule "
            f"{type(self.rule).__name__}: residual above fixed_point.atol",
            "Tighten the solver's tolerances or set fixed_point.polish; if the residual stays, rule "
            "and solver disagree about the problem.",
        )

    def _solve_adjoint(self, operator: FixedPointOperator, cotangent: Tensor) -> Tensor:
        """Return v with (I - Φᵀ) v = g, checked per sample."""
        if self.adjoint is None:
            raise InputError(f"{self.subject}: no adjoint solver is configured.")
        started = time.perf_counter()
        finite = torch.isfinite(cotangent).all(-1, keepdim=True)
        answer = self.adjoint.solve(operator, torch.where(finite, cotangent, 0.0))
        hooks.adjoint_finished(self.path, answer, time.perf_counter() - started)
        adjoint = torch.where(finite, answer.adjoint, float("nan"))
        if bool(answer.converged.all()):
            return adjoint
        samples = torch.nonzero(~answer.converged).flatten().tolist()
        worst = float(answer.residual[samples].max())
        message = (
            f"{self.subject}: {type(self.adjoint).__name__} did not converge for {len(samples)} of "
            f"{len(answer.converged)} samples ({name_samples(samples)}): residual {worst:.1e} after "
            f"{int(answer.iterations[samples].max())} products. Raise adjoint.max_iter, loosen "
            f"adjoint.rtol, or use another adjoint solver."
        )
        if self.config.on_adjoint_failure == "raise":
            raise AdjointError(message, samples)
        if self.config.on_adjoint_failure == "mask":
            warnings.warn(message + " Their gradients are zero.", AdjointWarning, stacklevel=2)
            return torch.where(answer.converged[:, None], adjoint, torch.zeros_like(adjoint))
        warnings.warn(message + " Their gradients are inexact.", AdjointWarning, stacklevel=2)
        return adjoint


def _one_step(bound: BoundRule, state: Tensor) -> tuple[Tensor, FixedPointOperator]:
    """Evaluate one step of the rule on the graph and return it with its Jacobian Φ."""
    known = bound.jacobian(state)
    if known is not None:
        return bound.step(state), known
    leaf = state.detach().requires_grad_(torch.is_grad_enabled())
    updated = bound.step(leaf)
    return updated, RecordedStep(leaf, updated)


def _act_on(policy: str, exceeded: Tensor, residual: Tensor, what: str, advice: str) -> None:
    if policy == "ignore" or not bool(exceeded.any()):
        return
    samples = torch.nonzero(exceeded).flatten().tolist()
    worst = float(residual[exceeded].max())
    message = f"{what} for {len(samples)} samples ({name_samples(samples)}): {worst:.1e}. {advice}"
    if policy == "raise":
        raise CertificateError(message, samples)
    warnings.warn(message, CertificateWarning, stacklevel=2)


def _with_donor_rows(raw: Solution, outcome: Outcome) -> Solution:
    """Give failed samples the primal and duals of a good one, to match their replaced inputs."""
    donor = outcome.donor
    if not outcome.failed or donor is None:
        return raw
    failed = outcome.mask(raw.primal.device)

    def repaired(value: Tensor) -> Tensor:
        return torch.where(failed[:, None], value[donor], value)

    duals = raw.duals
    if duals is not None:
        duals = Duals(**{name: repaired(value) for name, value in vars(duals).items()})
    return replace(raw, primal=repaired(raw.primal), duals=duals)


def _masked(
    solution: Solution, outcome: Outcome, device: torch.device, filler: float
) -> Solution:
    """Return the solution with failed samples set to the filler, cut off from autograd."""
    solution = replace(
        solution, status=tuple(outcome.status), messages=tuple(outcome.messages)
    )
    if not outcome.failed:
        return solution
    failed = outcome.mask(device)[:, None]
    duals = solution.duals
    if duals is not None:
        duals = Duals(
            **{name: torch.where(failed, filler, value) for name, value in vars(duals).items()}
        )
    return replace(solution, primal=torch.where(failed, filler, solution.primal), duals=duals)


def _dead_solution(inputs: Inputs, n: int, outcome: Outcome, filler: float) -> Solution:
    """Return a solution in which every sample failed; its gradients are exactly zero."""
    primal = torch.full((inputs.batch, n), filler, dtype=inputs.dtype, device=inputs.device)
    if inputs.needs_grad:
        links = [v.sum() for v in inputs.values.values() if v.requires_grad]
        primal = torch.where(
            torch.ones_like(primal, dtype=torch.bool), primal, torch.stack(links).sum()
        )
    return Solution(primal, tuple(outcome.status), messages=tuple(outcome.messages))


def _squeeze(solution: Solution) -> Solution:
    """Drop the batch dimension that an unbatched call does not have."""
    duals = solution.duals
    if duals is not None:
        duals = Duals(**{name: value[0] for name, value in vars(duals).items()})
    return replace(solution, primal=solution.primal[0], duals=duals)


def _by_path(reports: Mapping[str, Solution], path: str) -> dict[str, Solution]:
    prefix = f"{path}." if path else ""
    found: dict[str, Solution] = {}
    for name, report in reports.items():
        found[f"{prefix}rule.{name}"] = report
        found.update(report.inner)
    return found


def _buffer_name(name: str) -> str:
    return "constant_" + name.replace(".", "_")
