"""Certificate (a): zero at solutions, large where any one condition is violated, scaled, per sample."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.optimality import kkt

N = 3
EYE = torch.eye(N, dtype=torch.float64)
ONES = torch.ones(N, dtype=torch.float64)


def program(batch: int = 1, scale: float = 1.0) -> fc.SmoothProgram:
    """Return min ½‖x‖² - 2·Σx  s.t.  x₀ + x₁ = 1, x₂ <= 1/2 as a row, 0 <= x <= 3."""
    problem = fc.QuadraticProgram(
        P=scale * EYE, q=-2 * scale * ONES, A=(EYE[0] + EYE[1])[None], b=ONES[:1], G=EYE[2:],
        h=0.5 * ONES[:1], lower=0 * ONES, upper=3 * ONES,
    )  # fmt: skip
    return problem.bind(dict(problem.constants), batch)


X = torch.tensor([[0.5, 0.5, 0.5]], dtype=torch.float64)


def duals(scale: float = 1.0) -> fc.Duals:
    one = torch.full((1, 1), 1.5 * scale, dtype=torch.float64)
    return fc.Duals(one, one, 0 * X, 0 * X)


def test_a_solution_has_residual_zero() -> None:
    report, used = fc.kkt_report(program(), X, duals())
    assert report.residual.max() <= 1e-16
    assert used.equality.item() == 1.5
    assert report.unique_duals.all()
    recovered, _ = fc.kkt_report(program(), X)
    assert recovered.residual.max() <= 1e-15


WRONG = {
    "stationarity": (X, replace(duals(), equality=duals().equality + 0.5)),
    "primal": (X + 0.3 * EYE[:1], duals()),
    "dual": (X, replace(duals(), inequality=-duals().inequality)),
    "complementarity": (X - 0.3 * EYE[2:], duals()),
}


@pytest.mark.parametrize("condition", WRONG)
def test_each_condition_is_seen(condition: str) -> None:
    point, multipliers = WRONG[condition]
    report, _ = fc.kkt_report(program(), point, multipliers)
    assert getattr(report, condition).item() > 0.05
    assert report.residual.item() >= getattr(report, condition).item()


def test_complementarity_of_bounds_is_seen() -> None:
    multipliers = replace(duals(), lower=torch.full_like(X, 0.3))
    report, _ = fc.kkt_report(program(), X, multipliers)
    assert report.complementarity.item() > 0.05


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_residual_does_not_shrink_with_the_objective_unit(scale: float) -> None:
    """A point that is off by half stays clearly off, in whatever unit the objective is."""
    report, _ = fc.kkt_report(program(scale=scale), X, duals(scale))
    assert report.residual.item() < 1e-12
    wrong, _ = fc.kkt_report(program(scale=scale), 0 * X)
    assert wrong.primal.item() > 0.3


def test_reports_are_per_sample() -> None:
    points = torch.cat([X, X + 0.1, X])
    report, _ = fc.kkt_report(program(3), points)
    assert (report.residual > 1e-3).tolist() == [False, True, False]


def test_margin_is_infinite_without_inequalities_and_zero_where_weakly_active() -> None:
    plain = fc.QuadraticProgram(P=EYE, q=ONES)
    report, _ = fc.kkt_report(plain.bind(dict(plain.constants), 1), -ONES[None])
    assert report.margin.isinf().all()
    weak = fc.QuadraticProgram(P=EYE, q=0 * ONES, lower=0 * ONES)
    report, _ = fc.kkt_report(weak.bind(dict(weak.constants), 1), 0 * X)
    assert report.margin.item() == 0
    assert report.residual.item() == 0


def test_a_pinned_variable_is_not_degenerate() -> None:
    pinned = fc.QuadraticProgram(P=EYE, q=0 * ONES, lower=0 * ONES, upper=0 * ONES)
    report, _ = fc.kkt_report(pinned.bind(dict(pinned.constants), 1), 0 * X)
    assert report.residual.item() == 0
    assert report.margin.item() > 0.1


def test_infinite_bounds_and_rows_count_as_absent() -> None:
    inf = float("inf")
    problem = fc.QuadraticProgram(
        P=EYE, q=ONES, G=EYE, h=inf * ONES, lower=-inf * ONES, upper=inf * ONES
    )
    report, multipliers = fc.kkt_report(problem.bind(dict(problem.constants), 1), -ONES[None])
    for value in vars(report).values():
        assert not value.isnan().any()
    assert report.residual.item() == 0
    assert all((v == 0).all() for v in vars(multipliers).values())


@pytest.mark.parametrize("error", [1e-5, 1e-4, 1e-3])
def test_slack_of_an_inaccurate_solver_does_not_hide_active_constraints(error: float) -> None:
    report, _ = fc.kkt_report(program(), X - error * EYE[2:])
    assert 0.1 * error < report.residual.item() < 10 * error


def test_no_choice_of_active_set_hides_a_wrong_point() -> None:
    for point in (X + 0.2, X - 0.2, 0 * X, X + 0.05 * (EYE[:1] - EYE[1:2])):
        report, _ = fc.kkt_report(program(), point)
        assert report.residual.item() > 1e-2


def test_nan_is_never_certified() -> None:
    point = X.clone()
    point[0, 0] = float("nan")
    report, _ = fc.kkt_report(program(), point, duals())
    assert not report.residual.item() <= 1e-2


def test_sets_without_rows_are_certified_by_their_projection() -> None:
    problem = fc.Problem(
        N, lambda x, c: ((x - c) ** 2).sum() / 2, {"c": fc.Param(N)}, constraints=[fc.L1Ball(1.0)]
    )
    c = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    bound = problem.bind({**problem.constants, "c": c}, 1)
    right = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    assert fc.kkt_report(bound, right)[0].residual.item() < 1e-15
    for wrong in (0 * right, right.flip(-1), 2 * right):
        assert fc.kkt_report(bound, wrong)[0].residual.item() > 0.05


def test_gradient_free() -> None:
    point = X.clone().requires_grad_()
    report, multipliers = fc.kkt_report(program(), point)
    values: list[Tensor] = [*vars(report).values(), *vars(multipliers).values()]
    assert not any(v.requires_grad for v in values)


def test_a_climb_of_tolerances_evaluates_the_program_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("gradient", "equality", "inequality", "constraint_rows"):
        original = getattr(fc.SmoothProgram, name)

        def counted(
            self: fc.SmoothProgram, x: Tensor, name: str = name, original: object = original
        ) -> object:
            asked.append(name)
            assert callable(original)
            return original(self, x)

        monkeypatch.setattr(fc.SmoothProgram, name, counted)
    climbs = []
    recover = kkt.recover_at

    def climbing(point: object, tolerance: float) -> object:
        climbs.append(tolerance)
        return recover(point, tolerance)

    monkeypatch.setattr(kkt, "recover_at", climbing)
    fc.kkt_report(program(), X - 3e-5 * EYE[2:])
    assert climbs == [1e-6, 1e-4, 1e-2]
    assert sorted(asked) == ["constraint_rows", "equality", "gradient", "inequality"]
