"""Fold: a parametric problem as a differentiable layer; runs the picture of data flow once per call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from ..config import FoldConfig
from ..errors import InputError, ShapeError
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.rule import UpdateRule
from ..interfaces.solver import Solver
from ..problem.parametric import ParametricProblem
from ..program.program import SmoothProgram
from ..solution import Duals, Solution
from .backward.record import fold_solution, with_live_primal
from .backward.unfolding import unfold
from .call.inputs import Inputs, collect
from .call.prechecks import find_bad_samples
from .call.verdicts import Verdicts, dead_solution, masked, repaired_inputs, squeeze
from .forward import solve_black_box
from .parts import Parts


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

    def parts(self) -> Parts:
        """Return what the fold is made of, for its passes and for diagnostics."""
        return Parts(
            problem=self.problem,
            solver=self.solver,
            rule=self.rule,
            adjoint=self.adjoint,
            config=self.config,
            path=self.path,
            inner={name: cast(Fold, fold) for name, fold in self.inner.items()},
            owner=self,
        )

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
        inputs = self.inputs(values)
        verdicts = Verdicts(inputs.batch)
        return self._run(inputs, verdicts, None, duals=duals, filler=0.0, strict=False)

    def inputs(self, params: Mapping[str, Tensor]) -> Inputs:
        """Check and complete the arguments of a call; errors as of :meth:`forward`."""
        return collect(self.problem.params, params, self._owned(), self.parts().subject)

    def _call(
        self, params: Mapping[str, Tensor], warm_start: Solution | None, *, duals: bool
    ) -> Solution:
        inputs = self.inputs(params)
        verdicts = Verdicts(inputs.batch)
        strict = self.config.on_failure == "raise"
        if warm_start is not None:
            warm_start = self._checked_start(warm_start, inputs)
        solution = self._run(
            inputs, verdicts, warm_start, duals=duals, filler=float("nan"), strict=strict
        )
        verdicts.report(self.parts().subject, self.config.on_failure)
        if solution.duals is not None:
            solution = replace(solution, duals=self.problem.order_duals(solution.duals))
        return solution if inputs.batched else squeeze(solution)

    def _checked_start(self, given: Solution, inputs: Inputs) -> Solution:
        """Return a warm start detached, with its batch dimension and duals in the program's order."""
        if not isinstance(given, Solution):
            raise InputError(
                f"{self.parts().subject}: warm_start is a {type(given).__name__}; expected the "
                f"Solution that layer.solve returned."
            )
        expected = (inputs.batch, self.problem.n) if inputs.batched else (self.problem.n,)
        if tuple(given.primal.shape) != expected:
            raise ShapeError(
                f"{self.parts().subject}: warm_start has a primal of shape "
                f"{tuple(given.primal.shape)}, expected {expected}: that of this call."
            )
        duals = given.duals
        if duals is not None:
            duals = self.problem.order_duals(duals, inverse=True)
            rows = {name: value.detach() for name, value in vars(duals).items()}
            duals = Duals(**{k: v if inputs.batched else v[None] for k, v in rows.items()})
        primal = given.primal.detach()
        return replace(given, primal=primal if inputs.batched else primal[None], duals=duals)

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
        verdicts: Verdicts,
        warm_start: Solution | None,
        *,
        duals: bool,
        filler: float,
        strict: bool,
    ) -> Solution:
        program = find_bad_samples(
            self.problem, self.solver, inputs, verdicts, subject=self.parts().subject, strict=strict
        )
        solution = None
        if verdicts.donor() is not None:
            solution = self._solve_good(inputs, verdicts, warm_start, program, duals=duals)
        if solution is None or verdicts.donor() is None:
            return dead_solution(inputs, self.problem.n, verdicts, filler)
        return masked(solution, verdicts, inputs.device, filler)

    def _solve_good(
        self,
        inputs: Inputs,
        verdicts: Verdicts,
        warm_start: Solution | None,
        program: SmoothProgram | None,
        *,
        duals: bool,
    ) -> Solution | None:
        """Solve with failed samples replaced by good ones; None if no sample is left."""
        parts = self.parts()
        if self.rule is not None and self.config.mode in ("unfold", "unroll"):
            return self._unfold_good(self.rule, inputs, verdicts, warm_start, duals=duals)
        recorded = self.rule is None and inputs.needs_grad
        raw, answer = solve_black_box(
            parts, inputs, verdicts, warm_start, recorded=recorded, program=program
        )
        if raw is None:
            return None
        if self.rule is None:
            good = repaired_inputs(inputs, verdicts)
            return with_live_primal(parts, raw, answer, good, duals=duals)
        if inputs.needs_grad or self.config.fixed_point.polish:
            return fold_solution(parts, self.rule, inputs, verdicts, raw, duals=duals)
        return raw

    def _unfold_good(
        self,
        rule: UpdateRule,
        inputs: Inputs,
        verdicts: Verdicts,
        warm_start: Solution | None,
        *,
        duals: bool,
    ) -> Solution:
        while True:
            known = verdicts.failed
            good = repaired_inputs(inputs, verdicts)
            solution = unfold(self.parts(), rule, good, verdicts, warm_start, duals=duals)
            # A sample that overflowed would turn the others' shared gradients into NaN.
            if verdicts.failed == known or verdicts.donor() is None or not inputs.needs_grad:
                return solution


def _buffer_name(name: str) -> str:
    return "constant_" + name.replace(".", "_")
