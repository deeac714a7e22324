"""Each check of update rules catches the bad rule that is planted for it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from pydantic import Field
from torch import Tensor

from foldcore import (
    API_VERSION,
    BoundRule,
    FixedPointOperator,
    InnerFold,
    PluginConfig,
    ProgramStructure,
    SmoothProgram,
    Solution,
    UpdateRule,
    ZeroOperator,
    largest_eigenvalue,
    solve_checked,
)
from foldcore.testing import Kind, MatrixOperator, Outcome, all_checks, run_conformance


class GoodConfig(PluginConfig):
    """Options of the sound rule."""

    factor: float = Field(
        1.0, gt=0, description="Step times the largest curvature (dimensionless)."
    )


class GoodRule(UpdateRule):
    """Projected gradient on QPs with a constant P in a box: U(x) = clip(x - α∇f(x))."""

    api_version = API_VERSION
    config_class: type[PluginConfig] = GoodConfig
    config: GoodConfig

    def __init__(self, config: GoodConfig) -> None:
        self.config = config

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        template = structure.template
        boxed = template.lower is not None and isinstance(template.P, Tensor)
        if boxed and structure.convex and not (structure.n_equality or structure.n_inequality):
            return None
        return "it is no convex QP in a box"

    def converges(self, structure: ProgramStructure) -> bool:
        return True

    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        assert isinstance(program.data.P, Tensor)
        step = self.config.factor / largest_eigenvalue(program.data.P)
        return self.make(program, step.expand(program.batch))

    def make(self, program: SmoothProgram, step: Tensor) -> BoundRule:
        return GoodBound(program, step)


class GoodBound(BoundRule):
    def __init__(self, program: SmoothProgram, step: Tensor) -> None:
        self.program, self.size = program, step

    def initial(self, primal: Tensor | None = None) -> Tensor:
        zeros = torch.zeros(self.program.batch, self.program.n, dtype=self.program.dtype)
        return zeros if primal is None else primal

    def lift(self, solution: Solution) -> Tensor:
        return solution.primal

    def moved(self, state: Tensor) -> Tensor:
        return state - self.size[:, None] * self.program.gradient(state)

    def step(self, state: Tensor) -> Tensor:
        return torch.clip(self.moved(state), self.program.lower, self.program.upper)

    def primal(self, state: Tensor) -> Tensor:
        return state

    def with_step(self, step: Tensor) -> BoundRule | None:
        return type(self)(self.program, step)

    @property
    def step_scale(self) -> Tensor:
        return self.size

    def jacobian(self, state: Tensor) -> FixedPointOperator | None:
        assert self.program.lower is not None
        assert self.program.upper is not None
        moved = self.moved(state)
        free = ((moved > self.program.lower) & (moved < self.program.upper)).to(state.dtype)
        eye = torch.eye(self.program.n, dtype=state.dtype)
        phi = free[:, :, None] * (eye - self.size[:, None, None] * self.program.hessian(state))
        return MatrixOperator(phi.detach())


def rule(bound: type[GoodBound]) -> type[GoodRule]:
    """Return the sound rule with another bound rule."""

    class Planted(GoodRule):
        """A rule with a planted fault."""

        def make(self, program: SmoothProgram, step: Tensor) -> BoundRule:
            return bound(program, step)

    Planted.__name__ = bound.__name__
    return Planted


class ServesNothing(GoodRule):
    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        return "not today"


class OffTarget(GoodBound):
    """Comes to rest a little beside the solution."""

    def step(self, state: Tensor) -> Tensor:
        return super().step(state) + 1e-6


class Identity(GoodBound):
    """Is at rest everywhere."""

    def step(self, state: Tensor) -> Tensor:
        return 1.0 * state


class StepMovesTheTarget(GoodBound):
    """Its fixed point depends on the step."""

    def with_step(self, step: Tensor) -> BoundRule | None:
        return OffTarget(self.program, step)


class Diverges(GoodRule):
    """Claims that it converges with a step of 3/L."""

    def make(self, program: SmoothProgram, step: Tensor) -> BoundRule:
        return GoodBound(program, 3 * step)


class DividesByDirections(GoodBound):
    """Divides by n - 1."""

    def primal(self, state: Tensor) -> Tensor:
        return state * (state.shape[-1] - 1) / (state.shape[-1] - 1)


class MixesBatch(GoodBound):
    """Uses the batch's mean gradient for a part of its step."""

    def moved(self, state: Tensor) -> Tensor:
        moved = super().moved(state)
        return moved + 1e-6 * (moved - state).mean(0)


class EqualityRule(UpdateRule):
    """U(x) = the solution of the KKT system of an equality-constrained QP."""

    api_version = API_VERSION
    config_class = PluginConfig

    def __init__(self, config: PluginConfig) -> None:
        self.config = config

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        template = structure.template
        plain = template.lower is None and not structure.n_inequality
        if plain and template.b is not None and template.P is not None:
            return None if not structure.has_regularizers else "nonsmooth"
        return "it has more than equalities"

    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        return EqualityBound(program, self.solve_system)

    def solve_system(self, matrix: Tensor, right: Tensor) -> Tensor:
        return solve_checked(matrix, right)[0]


class EqualityBound(GoodBound):
    def __init__(self, program: SmoothProgram, solve: object) -> None:
        self.program, self.solve = program, solve

    def step(self, state: Tensor) -> Tensor:
        data, batch = self.program.data, self.program.batch
        rows = self.program.equality_jacobian(state).expand(batch, -1, self.program.n)
        top = torch.cat([self.program.hessian(state).expand(batch, -1, -1), rows.mT], -1)
        corner = rows.new_zeros(batch, rows.shape[-2], rows.shape[-2])
        matrix = torch.cat([top, torch.cat([rows, corner], -1)], -2)
        assert data.q is not None
        assert data.b is not None
        right = torch.cat([-data.q, data.b], -1)
        return self.solve(matrix, right)[:, : self.program.n]  # type: ignore[operator,no-any-return]

    def with_step(self, step: Tensor) -> BoundRule | None:
        return None

    @property
    def step_scale(self) -> float:  # type: ignore[override]
        return 1.0

    def jacobian(self, state: Tensor) -> FixedPointOperator:
        return ZeroOperator(state)


class RaisesOnSingular(EqualityRule):
    """One sample with dependent rows ends the batch."""

    def solve_system(self, matrix: Tensor, right: Tensor) -> Tensor:
        return torch.linalg.solve(matrix, right)


class AlwaysDouble(GoodBound):
    """Knows one dtype."""

    def step(self, state: Tensor) -> Tensor:
        return super().step(state).double()


class MutatesInput(GoodBound):
    """Scales q in place."""

    def step(self, state: Tensor) -> Tensor:
        assert self.program.data.q is not None
        self.program.data.q.detach().mul_(1 + 1e-12)
        return super().step(state)


class SharesItsBinding(GoodRule):
    """Keeps the last program it was bound to, and uses it everywhere."""

    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        self.latest = program
        bound = super().bind(program, inner)
        assert isinstance(bound, GoodBound)
        return LastBound(bound.program, bound.size, self)


class LastBound(GoodBound):
    def __init__(self, program: SmoothProgram, step: Tensor, owner: SharesItsBinding) -> None:
        super().__init__(program, step)
        self.owner = owner

    def with_step(self, step: Tensor) -> BoundRule | None:
        return LastBound(self.program, step, self.owner)

    def moved(self, state: Tensor) -> Tensor:
        return state - self.size[:, None] * self.owner.latest.gradient(state)


class UnusedConfig(GoodConfig):
    """Options, one of which nothing reads."""

    momentum: float = Field(0.5, ge=0, description="Weight of the last step (dimensionless).")


class IgnoresASetting(GoodRule):
    config_class = UnusedConfig


class NotTransposed(MatrixOperator):
    def vjp(self, cotangent: Tensor) -> Tensor:
        return super().jvp(cotangent)


class TransposesWrongly(GoodBound):
    """Its products with Φᵀ are products with Φ."""

    def jacobian(self, state: Tensor) -> FixedPointOperator | None:
        exact = super().jacobian(state)
        return NotTransposed(exact.dense()) if exact is not None else None


class WrongJacobian(GoodBound):
    """Its closed form is off by a factor of 1.001."""

    def jacobian(self, state: Tensor) -> FixedPointOperator | None:
        exact = super().jacobian(state)
        return MatrixOperator(1.001 * exact.dense()) if exact is not None else None


class WrongBackward(GoodBound):
    """Its step's hand-written derivative is off by a factor of 1.001."""

    def step(self, state: Tensor) -> Tensor:
        exact = super().step(state)
        return exact.detach() + 1.001 * (exact - exact.detach())


class ForgetsAParameter(GoodBound):
    """Takes the upper bound for a constant."""

    def step(self, state: Tensor) -> Tensor:
        assert self.program.upper is not None
        return torch.clip(self.moved(state), self.program.lower, self.program.upper.detach())


class IgnoresSets(GoodRule):
    """Reads rows and bounds, and takes a problem that has none for an unconstrained one."""

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.only_set and isinstance(structure.template.P, Tensor):
            return None
        return super().unsupported_reason(structure)

    def make(self, program: SmoothProgram, step: Tensor) -> BoundRule:
        if program.lower is None:
            return _FreeBound(program, step)
        return super().make(program, step)


class _FreeBound(GoodBound):
    def step(self, state: Tensor) -> Tensor:
        return state - self.size[:, None] * self.program.gradient(state)

    def jacobian(self, state: Tensor) -> FixedPointOperator | None:
        return None


class AveragesGradients(GoodBound):
    """Divides the gradient of what the batch shares by the batch."""

    def step(self, state: Tensor) -> Tensor:
        exact, parts = super().step(state), 1 if self.program.batched else self.program.batch
        return exact.detach() + (exact - exact.detach()) / parts


PAIRS = [
    (ServesNothing, "check_support", "serves none of the problems"),
    (rule(OffTarget), "check_fixed_point", "not at rest"),
    (rule(Identity), "check_moves_elsewhere", "passes for one"),
    (rule(StepMovesTheTarget), "check_step_size", "with half the step"),
    (Diverges, "check_converges", "comes no nearer"),
    (rule(DividesByDirections), "check_size_one", "primal of"),
    (rule(MixesBatch), "check_batch", "in a batch, against the sample alone"),
    (RaisesOnSingular, "check_failed_sample", "singular"),
    (rule(AlwaysDouble), "check_dtype", "float64 for torch.float32"),
    (rule(MutatesInput), "check_inputs_untouched", "its input"),
    (SharesItsBinding, "check_history", "after another binding"),
    (IgnoresASetting, "check_settings", "momentum"),
    (rule(TransposesWrongly), "check_adjointness", "against"),
    (rule(WrongJacobian), "check_jacobian", "jacobian(z*), against central differences"),
    (rule(WrongBackward), "check_gradcheck", "against central differences"),
    (rule(ForgetsAParameter), "check_gradients", "with respect to upper"),
    (IgnoresSets, "check_sets_without_rows", "with respect to c"),
    (rule(AveragesGradients), "check_shared_gradient", "shared by the batch"),
]


@pytest.mark.parametrize(
    ("bad", "check", "words"), PAIRS, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_bad_rule_is_caught_by_its_check(
    bad: type[UpdateRule], check: str, words: str
) -> None:
    (result,) = run_conformance(bad, only=[check]).results
    assert result.outcome is Outcome.FAILED
    assert words in result.message


def test_every_check_of_rules_is_proven() -> None:
    of_plugins = {"check_loads", "check_import_time", "check_import_changes_nothing",
                  "check_config", "check_documented", "check_pickling"}  # fmt: skip
    names = {check.name for check in all_checks(Kind.RULE)} - of_plugins
    assert {check for _, check, _ in PAIRS} == names


@pytest.mark.parametrize("sound", [GoodRule, EqualityRule])
def test_the_sound_rules_pass(sound: type[UpdateRule]) -> None:
    report = run_conformance(sound)
    assert report.ok, "\n".join(result.line() for result in report.failures)
