"""Fold: a parametric problem as a differentiable layer; runs the picture of data flow once per call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, cast

from torch import Tensor, nn

from ..config import FoldConfig
from ..errors import InputError, ShapeError
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.rule import UpdateRule
from ..interfaces.solver import Solver
from ..problem.parametric import ParametricProblem
from ..solution import Solution
from .backward.record import fold_solution, with_live_primal
from .backward.unfolding import unfold
from .call.bound_call import Call
from .call.degeneracy import undecided
from .call.inputs import Inputs, Signature, collect
from .call.prechecks import find_bad_samples
from .call.verdicts import Verdicts, dead_solution, masked, squeeze
from .forward import solve_black_box
from .parts import Parts


class Stage(Protocol):
    """What a layer does beside its fold where it folds another problem than the declared one.

    Attributes:
        label: What is folded instead, in words; part of the layer's representation.
    """

    @property
    def label(self) -> str: ...

    def prepare(self, parts: Parts, given: Inputs) -> Inputs:
        """Return the arguments of the folded problem, from those of the declared one."""
        ...

    def enter(self, call: Call) -> None:
        """Take over what ``prepare`` found of the samples."""
        ...

    def leave(self, solution: Solution) -> Solution:
        """Say in a solution what it is one of."""
        ...


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
        stage: What is done beside the fold where not the declared problem is folded.
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
        stage: Stage | None = None,
    ) -> None:
        super().__init__()
        self.inner = nn.ModuleDict(inner)
        self._parts = Parts(
            problem=problem,
            solver=solver,
            rule=rule,
            adjoint=adjoint,
            config=config,
            path=path,
            inner=cast(Mapping[str, Fold], self.inner),
        )
        self._stage = stage
        self._signature = Signature.of(problem.params)
        self._module_names = tuple(problem.modules)
        self._buffer_names = {name: _buffer_name(name) for name in problem.constants}
        for name, value in problem.constants.items():
            self.register_buffer(self._buffer_names[name], value, persistent=False)
        for name in self._signature.learnable:
            init = cast(Tensor, problem.params[name].init)
            self.register_parameter(name, nn.Parameter(init.detach().clone()))
        for name, module in problem.modules.items():
            self.add_module(name, module)

    @property
    def problem(self) -> ParametricProblem:
        """The problem."""
        return self._parts.problem

    @property
    def solver(self) -> Solver:
        """The black box of the forward pass."""
        return self._parts.solver

    @property
    def rule(self) -> UpdateRule | None:
        """The update rule; None where the solver is itself differentiable."""
        return self._parts.rule

    @property
    def adjoint(self) -> AdjointSolver | None:
        """The adjoint solver; None likewise. May be set, to compare adjoint solvers on one layer."""
        return self._parts.adjoint

    @adjoint.setter
    def adjoint(self, solver: AdjointSolver | None) -> None:
        self._parts = replace(self._parts, adjoint=solver)

    @property
    def config(self) -> FoldConfig:
        """Tolerances and policies."""
        return self._parts.config

    @property
    def path(self) -> str:
        """Path in the configuration, "" for the outermost fold."""
        return self._parts.path

    @property
    def parts(self) -> Parts:
        """What the fold is made of, for its passes and for diagnostics."""
        return self._parts

    def extra_repr(self) -> str:
        parts = {"solver": self.solver, "rule": self.rule, "adjoint": self.adjoint}
        shown = ", ".join(f"{k}={type(v).__name__}" for k, v in parts.items() if v is not None)
        return shown if self._stage is None else f"{shown}, {self._stage.label}"

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
        call = self._begin(values)
        return self._run(call, None, duals=duals, filler=0.0, strict=False)

    def inputs(self, params: Mapping[str, Tensor]) -> Inputs:
        """Check and complete the arguments of a call; errors as of :meth:`forward`."""
        given = collect(self._signature, params, self._owned(), self._parts.subject)
        return given if self._stage is None else self._stage.prepare(self._parts, given)

    def _begin(self, params: Mapping[str, Tensor]) -> Call:
        inputs = self.inputs(params)
        return Call(self._parts.problem, inputs, Verdicts(inputs.batch))

    def _call(
        self, params: Mapping[str, Tensor], warm_start: Solution | None, *, duals: bool
    ) -> Solution:
        call, config = self._begin(params), self._parts.config
        if warm_start is not None:
            warm_start = self._checked_start(warm_start, call.given)
        strict = config.on_failure == "raise"
        solution = self._run(call, warm_start, duals=duals, filler=float("nan"), strict=strict)
        if not call.verdicts.clean:
            call.verdicts.report(self._parts.subject, config.on_failure)
        if duals and solution.duals is not None:
            solution = replace(solution, duals=self.problem.order_duals(solution.duals))
        return solution if call.given.batched else squeeze(solution)

    def _checked_start(self, given: Solution, inputs: Inputs) -> Solution:
        """Return a warm start detached, with its batch dimension and duals in the program's order."""
        subject = self._parts.subject
        if not isinstance(given, Solution):
            raise InputError(
                f"{subject}: warm_start is a {type(given).__name__}; expected the "
                f"Solution that layer.solve returned."
            )
        expected = (inputs.batch, self.problem.n) if inputs.batched else (self.problem.n,)
        if tuple(given.primal.shape) != expected:
            raise ShapeError(
                f"{subject}: warm_start has a primal of shape "
                f"{tuple(given.primal.shape)}, expected {expected}: that of this call."
            )
        duals = given.duals
        if duals is not None:
            duals = self.problem.order_duals(duals, inverse=True)
            duals = duals.map(lambda v: v.detach() if inputs.batched else v.detach()[None])
        primal = given.primal.detach()
        return replace(given, primal=primal if inputs.batched else primal[None], duals=duals)

    def _owned(self) -> Mapping[str, Tensor]:
        owned: dict[str, Tensor] = {}
        for name, buffer in self._buffer_names.items():
            owned[name] = getattr(self, buffer)
        for name in self._signature.learnable:
            owned[name] = getattr(self, name)
        for prefix in self._module_names:
            module = getattr(self, prefix)
            for name, value in (*module.named_parameters(), *module.named_buffers()):
                owned[f"{prefix}.{name}"] = value
        return owned

    def _run(
        self,
        call: Call,
        warm_start: Solution | None,
        *,
        duals: bool,
        filler: float,
        strict: bool,
    ) -> Solution:
        parts, verdicts = self._parts, call.verdicts
        if self._stage is not None:
            self._stage.enter(call)
        find_bad_samples(parts.problem, parts.solver, call, subject=parts.subject, strict=strict)
        solution = None
        if not verdicts.dead:
            solution = self._solve_good(call, warm_start, duals=duals)
        if solution is None or verdicts.dead:
            solution = dead_solution(call.given, parts.problem.n, verdicts, filler)
        else:
            solution = masked(solution, verdicts, call.given.device, filler)
        return solution if self._stage is None else self._stage.leave(solution)

    def _solve_good(
        self, call: Call, warm_start: Solution | None, *, duals: bool
    ) -> Solution | None:
        """Solve with failed samples replaced by good ones; None if no sample is left."""
        parts, needs_grad = self._parts, call.given.needs_grad
        rule = parts.rule
        if rule is not None and parts.config.mode in ("unfold", "unroll"):
            return unfold(parts, rule, call, warm_start, duals=duals)
        recorded = rule is None and needs_grad
        raw, answer = solve_black_box(parts, call, warm_start, recorded=recorded)
        if raw is None:
            return None
        if rule is None:
            return with_live_primal(parts, raw, answer, call, duals=duals)
        if needs_grad or parts.polishes:
            return fold_solution(parts, rule, call, raw, duals=duals)
        # A point that the rule improves is the answer, with and without a gradient alike.
        if rule.decides_active_set and raw.kkt is not None and bool(undecided(raw.kkt).any()):
            return fold_solution(parts, rule, call, raw, duals=duals)
        return raw


def _buffer_name(name: str) -> str:
    return "constant_" + name.replace(".", "_")
