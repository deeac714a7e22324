"""An update rule under test, bound and brought to rest at known solutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...config import FoldConfig
from ...fold.backward.fixed_point import attach_fixed_point
from ...interfaces.fixed_point_operator import FixedPointOperator
from ...interfaces.rule import BoundRule, UpdateRule
from ...program.structure import ProblemClass
from ...rules.linearise import linearise, one_step
from ..problems.exact_qp import ExactFold
from ..problems.known_problem import KnownProblem
from .settings import Observation
from .subject import ProblemSubject


@dataclass(frozen=True)
class AtRest:
    """A rule at a known solution: bound, with its step chosen there, and z*. Shape (B, s)."""

    bound: BoundRule
    state: Tensor


class RuleSubject(ProblemSubject[UpdateRule]):
    """Binds the rule to the kit's problems; inner problems are solved by the kit itself."""

    def refusal(self, known: KnownProblem, plugin: UpdateRule) -> str | None:
        """Return why a rule is not run on a problem, or None where it is."""
        reason = plugin.unsupported_reason(known.problem.structure)
        if reason is not None:
            return reason
        for name, inner in plugin.inner_problems(known.problem).items():
            structure = inner.structure
            if structure.problem_class is not ProblemClass.QP or structure.has_regularizers:
                return f"its inner problem {name!r} is no convex QP, which is all the kit solves"
        return None

    def bind(
        self,
        known: KnownProblem,
        *,
        rule: UpdateRule | None = None,
        values: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> BoundRule:
        """Bind to a problem's data, or to other ``values``, which stay on their graph."""
        rule = self.plugin() if rule is None else rule
        inner = {name: ExactFold(p) for name, p in rule.inner_problems(known.problem).items()}
        return rule.bind(known.bind(dtype, values=values), inner)

    def at_rest(
        self,
        known: KnownProblem,
        *,
        rule: UpdateRule | None = None,
        values: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float64,
        duals: bool = True,
    ) -> AtRest:
        """Lift the known solution and choose the step there, as a fold does.

        Args:
            duals: Whether the solution that is lifted holds its multipliers.
        """
        bound = self.bind(known, rule=rule, values=values, dtype=dtype)
        with torch.no_grad():
            state = bound.lift(known.solution(dtype, duals=duals)).detach()
        return AtRest(bound.at(state), state)

    def gradients(
        self, known: KnownProblem, values: Mapping[str, Tensor], cotangent: Tensor
    ) -> dict[str, Tensor]:
        """Return the folded gradients of Σ cotangent·x*, the adjoint solved densely.

        The data flow is that of a layer: one recorded step, the fixed point around z* alone, and
        ``primal`` on the graph.
        """
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        rest = self.at_rest(known, values=leaves)
        updated, operator = one_step(rest.bound, rest.state)
        state = rest.state
        if updated.requires_grad:
            state = attach_fixed_point(updated, state, lambda g: solve_adjoint(operator, g))
        x = rest.bound.primal(state)
        if not x.requires_grad:
            return {name: torch.zeros_like(value) for name, value in leaves.items()}
        found = torch.autograd.grad(
            (x * cotangent).sum(),
            list(leaves.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(leaves, found, strict=True))

    # What its runs show

    def observable(self) -> Sequence[str]:
        return [known.name for known in self.supported]

    def observe(self, problem: str, options: Mapping[str, Any]) -> Observation | None:
        known = next(known for known in self.supported if known.name == problem)
        rule = self.plugin(**options)
        if self.refusal(known, rule) is not None:
            return None
        rest = self.at_rest(known, rule=rule)
        away = rest.state + 0.01 * direction(rest.state, seed=2)
        moved = rest.bound.step(away)
        product = linearise(rest.bound, rest.state).vjp(direction(rest.state, seed=3))
        duals = rest.bound.duals(rest.state)
        return {
            "state": tuple(rest.state.shape),
            "step": _bits(moved),
            "residual": _bits(rest.bound.residual(away, moved)),
            "Jacobian": _bits(product),
            "primal": _bits(rest.bound.primal(away)),
            "duals": None if duals is None else [_bits(v) for v in vars(duals).values()],
            "step size": _bits(torch.as_tensor(rest.bound.step_scale)),
        }

    def used_by_build(self) -> Mapping[str, str]:
        return {
            name: f"{name}: configures the fold of an inner problem, which build() makes"
            for name, field in self.config_class.model_fields.items()
            if FoldConfig in getattr(field.annotation, "__args__", (field.annotation,))
        }


def solve_adjoint(operator: FixedPointOperator, cotangent: Tensor) -> Tensor:
    """Return v with (I - Φᵀ) v = g by dense least squares, of least norm where it is singular."""
    phi = operator.dense().expand(len(cotangent), -1, -1)
    system = torch.eye(operator.size, dtype=phi.dtype) - phi.mT
    right = cotangent.unsqueeze(-1)
    solution: Tensor = torch.linalg.lstsq(system, right, driver="gelsd").solution
    return solution.squeeze(-1)


def direction(like: Tensor, *, seed: int) -> Tensor:
    """Return standard normal numbers of a tensor's shape and dtype. Repeats for one seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.dtype)


def _bits(value: Tensor) -> bytes:
    return value.detach().contiguous().numpy().tobytes()
