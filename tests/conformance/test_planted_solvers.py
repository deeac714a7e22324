"""Each check of solvers catches the bad solver that is planted for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor

from foldcore import (
    API_VERSION,
    Capabilities,
    IterationMap,
    IterativeConfig,
    ProblemClass,
    ProgramStructure,
    Session,
    SmoothProgram,
    Solution,
    Solver,
    Status,
)
from foldcore.testing import Kind, Outcome, all_checks, run_conformance
from foldcore.testing.problems.exact_qp import solve_exactly

NEEDED = 5
"""Iterations that the sound solver says it needs; one from a warm start."""


class GoodConfig(IterativeConfig):
    """Options of the sound solver."""


class GoodSolver(Solver):
    """Solves strictly convex QPs to the tolerance that is asked for, and no better."""

    api_version = API_VERSION
    config_class = GoodConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset({ProblemClass.QP}),
        duals=True,
        warm_start=True,
        differentiable=True,
    )

    def __init__(self, config: GoodConfig) -> None:
        self.config: GoodConfig = config

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.auxiliary:
            return "it needs a positive definite P"
        return super().unsupported_reason(structure)

    def open(self, structure: ProgramStructure) -> Session:
        return GoodSession(self)

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        exact = solve_exactly(program)
        count = 1 if warm else NEEDED
        limited = self.config.max_iter < count
        status = tuple(Status.ITERATION_LIMIT if limited and s.ok else s for s in exact.status)
        x = torch.zeros_like(exact.primal) if limited else self.inexact(exact.primal)
        return replace(exact, primal=x, status=status, iterations=(count,) * program.batch)

    def inexact(self, x: Tensor) -> Tensor:
        return x + 0.1 * (self.config.rtol + self.config.atol) * torch.ones_like(x)


class GoodSession(Session):
    def __init__(self, solver: GoodSolver) -> None:
        self._solver = solver

    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        return self._solver.answer(program, warm_start is not None)


class ClaimsLP(GoodSolver):
    """Declares LPs and refuses every one of them."""

    capabilities = replace(
        GoodSolver.capabilities, problem_classes=frozenset({ProblemClass.QP, ProblemClass.LP})
    )

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.problem_class is ProblemClass.LP:
            return "not today"
        return super().unsupported_reason(structure)


class Inaccurate(GoodSolver):
    """Stops a thousand times too early."""

    def inexact(self, x: Tensor) -> Tensor:
        return x + 1e-4


class IgnoresRtol(GoodSolver):
    """Always stops at its own tolerance."""

    def inexact(self, x: Tensor) -> Tensor:
        return x + 3e-3


class WrongDualSign(GoodSolver):
    """Returns the multipliers of the other convention."""

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        found = super().answer(program, warm)
        assert found.duals is not None
        return replace(found, duals=found.duals.map(torch.neg))


class Float32Only(GoodSolver):
    """Answers in float32, whatever it is given."""

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        found = super().answer(program, warm)
        assert found.duals is not None
        duals = found.duals.map(lambda value: value.float())
        return replace(found, primal=found.primal.float(), duals=duals)


class MutatesInput(GoodSolver):
    """Shifts q in place, as an equilibration would."""

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        found = super().answer(program, warm)
        assert program.data.q is not None
        program.data.q.detach().mul_(1 + 1e-12)
        return found


class MixesBatch(GoodSolver):
    """Lets each sample see the batch's mean."""

    def inexact(self, x: Tensor) -> Tensor:
        return x + 1e-9 * x.mean(0)


class Leaks(GoodSolver):
    """Starts where the last call ended, so that a trace of it remains."""

    def open(self, structure: ProgramStructure) -> Session:
        return LeakingSession(self)


class LeakingSession(GoodSession):
    trace: Tensor | float = 0.0

    def solve(self, program: SmoothProgram, **given: Any) -> Solution:
        found = super().solve(program, **given)
        x = found.primal + 1e-10 * self.trace
        self.trace = found.primal.detach()
        return replace(found, primal=x)


class IgnoresPartialChanges(GoodSolver):
    """Builds its model anew only where all data have changed."""

    def open(self, structure: ProgramStructure) -> Session:
        return LazySession(self, structure)


class LazySession(GoodSession):
    def __init__(self, solver: GoodSolver, structure: ProgramStructure) -> None:
        super().__init__(solver)
        self._everything = frozenset(structure.template.varying)
        self._last: Solution | None = None

    def solve(self, program: SmoothProgram, *, changed: frozenset[str], **given: Any) -> Solution:
        if self._last is None or changed == self._everything:
            self._last = super().solve(program, changed=changed, **given)
        return self._last


class IgnoresWarmStart(GoodSolver):
    """Declares warm starts and starts cold."""

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        return super().answer(program, False)


class SqueezesOne(GoodSolver):
    """Drops dimensions of size one."""

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        found = super().answer(program, warm)
        return replace(found, primal=found.primal.squeeze())


class ForgetsWhenPickled(GoodSolver):
    """Loses its options on the way."""

    def __getstate__(self) -> dict[str, Any]:
        return {"config": GoodConfig(rtol=1e-3)}


class UnusedConfig(IterativeConfig):
    """Options, one of which nothing reads."""

    patience: int = Field(3, ge=0, description="Cycles without progress that are granted (count).")


class IgnoresASetting(GoodSolver):
    config_class = UnusedConfig


class WrongGradient(GoodSolver):
    """Its derivative is off by a factor of 1.001."""

    def inexact(self, x: Tensor) -> Tensor:
        x = super().inexact(x)
        return x.detach() + 1.001 * (x - x.detach())


class AveragesGradients(GoodSolver):
    """Divides gradients by the batch, as a mean loss would, where all data are shared."""

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        found = super().answer(program, warm)
        x, parts = found.primal, 1 if program.batched else program.batch
        return replace(found, primal=x.detach() + (x - x.detach()) / parts)


class SwallowsFailures(GoodSolver):
    """Calls everything optimal."""

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        found = super().answer(program, warm)
        return replace(found, status=(Status.OPTIMAL,) * program.batch)


class GivesUpTogether(GoodSolver):
    """One bad sample fails the batch."""

    def answer(self, program: SmoothProgram, warm: bool) -> Solution:
        found = super().answer(program, warm)
        if found.failed:
            return replace(found, status=(found.status[found.failed[0]],) * program.batch)
        return found


PAIRS = [
    (ClaimsLP, "check_capabilities", "declares the class lp"),
    (Inaccurate, "check_kkt", "KKT residual is"),
    (IgnoresRtol, "check_tolerance", "was asked for"),
    (WrongDualSign, "check_dual_signs", "multiplier of"),
    (Float32Only, "check_dtype_and_device", "float32 for torch.float64"),
    (MutatesInput, "check_inputs_untouched", "its input"),
    (MixesBatch, "check_batch", "in a batch, against the sample alone"),
    (Leaks, "check_history", "after other data in the same session"),
    (IgnoresPartialChanges, "check_unchanged_data", "alone changed"),
    (IgnoresWarmStart, "check_warm_start", "saves no iteration"),
    (SqueezesOne, "check_size_one", "has shape"),
    (ForgetsWhenPickled, "check_copies", "by a copy"),
    (IgnoresASetting, "check_settings", "patience"),
    (WrongGradient, "check_gradients", "the gradient of"),
    (AveragesGradients, "check_shared_gradient", "shared by the batch"),
    (SwallowsFailures, "check_infeasible", "infeasible is reported as optimal"),
    (SwallowsFailures, "check_unbounded", "unbounded is reported as optimal"),
    (GivesUpTogether, "check_failed_sample", "beside the sample that fails"),
    (SwallowsFailures, "check_limits", "reported as optimal with a scaled KKT residual"),
]


@pytest.mark.parametrize(
    ("bad", "check", "words"), PAIRS, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_bad_solver_is_caught_by_its_check(
    bad: type[GoodSolver], check: str, words: str
) -> None:
    (result,) = run_conformance(bad, only=[check]).results
    assert result.outcome is Outcome.FAILED
    assert words in result.message


def test_every_check_of_solvers_is_proven() -> None:
    of_plugins = {"check_loads", "check_import_time", "check_import_changes_nothing",
                  "check_config", "check_documented", "check_pickling"}  # fmt: skip
    names = {check.name for check in all_checks(Kind.SOLVER)} - of_plugins
    assert {check for _, check, _ in PAIRS} == names


def test_the_sound_solver_passes() -> None:
    report = run_conformance(GoodSolver)
    assert report.ok, "\n".join(result.line() for result in report.failures)
