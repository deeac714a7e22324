"""Each check of adjoint solvers catches the bad one that is planted for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import Field
from torch import Tensor

from foldcore import (
    API_VERSION,
    AdjointSolution,
    AdjointSolver,
    FixedPointOperator,
    IterativeConfig,
    PluginConfig,
    ScaledSystem,
    solve_dense,
)
from foldcore.testing import Kind, Outcome, all_checks, run_conformance


class GoodConfig(PluginConfig):
    """Options of the sound adjoint solver."""

    rtol: float = Field(1e-8, ge=0, description="Relative tolerance (dimensionless).")
    atol: float = Field(0.0, ge=0, description="Absolute tolerance, in units of the cotangent.")


class GoodAdjoint(AdjointSolver):
    """Assembles the matrix and measures what it returns."""

    api_version = API_VERSION
    config_class: type[PluginConfig] = GoodConfig

    def __init__(self, config: GoodConfig) -> None:
        self.config: GoodConfig = config

    @torch.no_grad()
    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        system = ScaledSystem.of(cotangent, self.config.rtol, self.config.atol)
        best = system.untouched()
        if not operator.zero and bool(system.nonzero.any()):
            best = system.started(operator)
            open_samples = system.unsolved(best)
            if bool(open_samples.any()):
                dense = solve_dense(operator, system.cotangent, open_samples)
                best = best.attempt(system, operator, dense.adjoint, open_samples)
        return system.report(best.adjoint, best.norm, best.products)


class WrongByAFactor(GoodAdjoint):
    """v is too large by 1 in 1000."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        return replace(found, adjoint=1.001 * found.adjoint)


class ReportsAnotherResidual(GoodAdjoint):
    """Changes v by one in 100,000 after it was measured."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        return replace(found, adjoint=(1 + 1e-5) * found.adjoint)


class AlwaysConverged(GoodAdjoint):
    """Calls everything converged."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        return replace(found, converged=torch.ones_like(found.converged))


class DividesByTheNorm(GoodAdjoint):
    """Normalises the cotangent, of which there may be nothing."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        norm = cotangent.norm(dim=-1, keepdim=True)
        found = super().solve(operator, cotangent / norm)
        return replace(found, adjoint=found.adjoint * norm)


class StartsElsewhere(GoodAdjoint):
    """Is right to twelve digits where it could be exact."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        return replace(found, adjoint=found.adjoint * (1 + 1e-12))


class SeriesConfig(IterativeConfig):
    """Options of the series."""


class UnguardedSeries(AdjointSolver):
    """Sums v = Σ (Φᵀ)ᵏ g, whatever becomes of it."""

    api_version = API_VERSION
    config_class: type[PluginConfig] = SeriesConfig

    def __init__(self, config: SeriesConfig) -> None:
        self.config: SeriesConfig = config

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        v = cotangent
        for _ in range(self.config.max_iter):
            v = operator.vjp(v) + cotangent
        residual = (cotangent - v + operator.vjp(v)).norm(dim=-1)
        count = torch.full(residual.shape, self.config.max_iter + 1)
        return AdjointSolution(v, residual, count, residual <= 1e-8 * cotangent.norm(dim=-1))


class SqueezesOne(GoodAdjoint):
    """Drops dimensions of size one."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        return replace(found, adjoint=found.adjoint.squeeze())


class ZeroesSmallOnes(GoodAdjoint):
    """Takes a cotangent below 1e-8 for nothing."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        return super().solve(operator, torch.where(cotangent.abs() < 1e-8, 0.0, cotangent))


class MixesBatch(GoodAdjoint):
    """Lets each sample see the batch's mean."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        return replace(found, adjoint=found.adjoint + 1e-9 * found.adjoint.mean(0))


class SpreadsInfinity(GoodAdjoint):
    """Adds 0 times the others' residuals, one of which may be inf."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        return replace(found, adjoint=found.adjoint + 0.0 * found.residual.sum())


class ReturnsFloat32(GoodAdjoint):
    """Knows one dtype."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        return replace(found, adjoint=found.adjoint.float())


class MutatesInput(GoodAdjoint):
    """Uses the cotangent as its workspace."""

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        found = super().solve(operator, cotangent)
        cotangent.detach().mul_(1 + 1e-12)
        return found


class CountsCalls(GoodAdjoint):
    """Each call's answer depends on how many there were."""

    calls = 0

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        self.calls += 1
        found = super().solve(operator, cotangent)
        return replace(found, adjoint=found.adjoint * (1 + 1e-14 * self.calls))


class UnusedConfig(GoodConfig):
    """Options, one of which nothing reads."""

    restart: int = Field(50, ge=1, description="Steps between restarts (count).")


class IgnoresASetting(GoodAdjoint):
    config_class = UnusedConfig


PAIRS = [
    (WrongByAFactor, "check_dense_solve", "v is off by"),
    (ReportsAnotherResidual, "check_true_residual", "is not that of its v"),
    (AlwaysConverged, "check_nonconvergence", "no solution"),
    (DividesByTheNorm, "check_zero_cotangent", "zero cotangent"),
    (StartsElsewhere, "check_zero_jacobian", "v for Φ = 0"),
    (UnguardedSeries, "check_divergence", "NaN or inf"),
    (SqueezesOne, "check_size_one", "has shape"),
    (ZeroesSmallOnes, "check_scale", "cotangents of size"),
    (MixesBatch, "check_batch", "in a batch, against the sample alone"),
    (SpreadsInfinity, "check_neighbours", "with neighbours that are"),
    (UnguardedSeries, "check_finite_products", "a product with NaN or inf"),
    (ReturnsFloat32, "check_dtype_and_device", "float32 for torch.float64"),
    (MutatesInput, "check_inputs_untouched", "its input"),
    (CountsCalls, "check_history", "after another solve"),
    (IgnoresASetting, "check_settings", "restart"),
]


@pytest.mark.parametrize(
    ("bad", "check", "words"), PAIRS, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_bad_adjoint_solver_is_caught_by_its_check(
    bad: type[AdjointSolver], check: str, words: str
) -> None:
    (result,) = run_conformance(bad, only=[check]).results
    assert result.outcome is Outcome.FAILED
    assert words in result.message


def test_every_check_of_adjoint_solvers_is_proven() -> None:
    of_plugins = {"check_loads", "check_import_time", "check_import_changes_nothing",
                  "check_config", "check_documented", "check_pickling"}  # fmt: skip
    names = {check.name for check in all_checks(Kind.ADJOINT)} - of_plugins
    assert {check for _, check, _ in PAIRS} == names


def test_the_sound_adjoint_solver_passes() -> None:
    report = run_conformance(GoodAdjoint)
    assert report.ok, "\n".join(result.line() for result in report.failures)
