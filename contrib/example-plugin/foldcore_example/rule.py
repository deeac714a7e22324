"""An update rule: projected gradients with heavy-ball momentum, for quadratic objectives in a box.

Source: Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Computational
Mathematics and Mathematical Physics 4 (1964), 1-17, with a projection onto the box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from foldcore import (
    BoundRule,
    InnerFold,
    PluginConfig,
    PreparedRule,
    ProgramStructure,
    SmoothProgram,
    Solution,
    UpdateRule,
    largest_eigenvalue,
)

from .rule_config import ExampleRuleConfig


class ExampleRule(UpdateRule):
    """U(x, y) = (P_box(x - α ∇f(x) + β (x - y)), x), at rest where x = y solves the problem."""

    api_version: ClassVar[int] = 2
    config_class: ClassVar[type[PluginConfig]] = ExampleRuleConfig

    def __init__(self, config: ExampleRuleConfig) -> None:
        self.config: ExampleRuleConfig = config

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        """Say why a problem cannot be served, in the words of an error message, or None."""
        if structure.smooth_objective or structure.has_regularizers:
            return "the objective is not quadratic"
        constrained = structure.n_equality or structure.n_inequality or structure.sets
        if constrained or structure.smooth_constraints:
            return "it has constraints other than bounds"
        return None

    def converges(self, structure: ProgramStructure) -> bool:
        """Say whether iterating finds a solution, so that the solver ``iterate`` may run the rule."""
        return structure.convex is not False

    def open(self, structure: ProgramStructure) -> PreparedRule:
        """Return the rule for a layer: it keeps α where P is a constant. Leave it out where nothing is."""
        return _PreparedRule(self)

    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        """Return the rule for one batch; what a call needs only once is computed here."""
        return _BoundRule(program, self.step_size(program), self.config.momentum)

    def step_size(self, program: SmoothProgram) -> Tensor:
        """Return α, (1,) or (B,)."""
        given = self.config.step_size
        if given is not None:
            return torch.full((1,), given, dtype=program.dtype, device=program.device)
        if program.data.P is None:
            return torch.ones(1, dtype=program.dtype, device=program.device)
        curvature = largest_eigenvalue(program.data.P).reshape(-1)
        return torch.where(curvature > 0, 1 / curvature, torch.ones_like(curvature))


class _PreparedRule(PreparedRule):
    """What is kept between the calls of one layer, in one thread and dtype."""

    def __init__(self, rule: ExampleRule) -> None:
        self._rule = rule
        self._step: Tensor | None = None

    def bind(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], changed: frozenset[str]
    ) -> BoundRule:
        """Bind a batch: P cannot have changed where ``changed`` does not name it."""
        if "P" in changed or self._step is None:
            self._step = self._rule.step_size(program)
        return _BoundRule(program, self._step, self._rule.config.momentum)


class _BoundRule(BoundRule):
    """The state is (x, y), one flat tensor of shape (B, 2n); y is the x of the step before."""

    def __init__(self, program: SmoothProgram, step: Tensor, momentum: float) -> None:
        self._program, self._step, self._momentum = program, step, momentum

    @property
    def step_scale(self) -> Tensor:
        """α, which the residual is divided by. Shape (1,) or (B,)."""
        return self._step

    def initial(self, primal: Tensor | None = None) -> Tensor:
        """Return a state that is feasible."""
        program = self._program
        if primal is None:
            primal = torch.zeros(
                program.batch, program.n, dtype=program.dtype, device=program.device
            )
        x = self._project(primal)
        return torch.cat([x, x], dim=-1)

    def lift(self, solution: Solution) -> Tensor:
        """Return the state of rest that belongs to a solution."""
        return torch.cat([solution.primal, solution.primal], dim=-1)

    def step(self, state: Tensor) -> Tensor:
        """Return U(z): differentiable in the state and, through ``program``, in the parameters."""
        x, previous = state.chunk(2, dim=-1)
        gradient = self._program.gradient(x)
        moved = x - self._step[:, None] * gradient + self._momentum * (x - previous)
        return torch.cat([self._project(moved), x], dim=-1)

    def primal(self, state: Tensor) -> Tensor:
        """Return x."""
        return state.chunk(2, dim=-1)[0]

    def with_step(self, step: Tensor) -> BoundRule:
        """Return the rule with another α, (B,): what lets foldcore look for the best one."""
        return _BoundRule(self._program, step, self._momentum)

    def _project(self, x: Tensor) -> Tensor:
        lower, upper = self._program.data.lower, self._program.data.upper
        if lower is not None:
            x = torch.where(x < lower, lower, x)
        if upper is not None:
            x = torch.where(x > upper, upper, x)
        return x
