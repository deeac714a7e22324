"""diagnose: every number against an independent one, every piece of advice on a planted fault."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

pytest.importorskip("foldcore_pgd", reason="diagnoses the rule foldcore-pgd")
pytest.importorskip("foldcore_gmres", reason="uses the adjoint solver foldcore-gmres")
pytest.importorskip("foldcore_osqp", reason="solves with foldcore-osqp")

N = 8


def problem_and_values(batch: int = 3) -> tuple[fc.QuadraticProgram, dict[str, Tensor]]:
    data = random_qp(2, N, batch=batch)
    return declare(data, set(data)), data


def layer_for(problem: fc.QuadraticProgram, **config: object) -> fc.Fold:
    return fc.build(
        {"problem": problem, "solver": "osqp", "rule": "pgd", "adjoint": "gmres", **config}
    )


def dense_jacobians(layer: fc.Fold, data: dict[str, Tensor]) -> Tensor:
    program = layer.problem.bind({**layer.problem.constants, **data}, len(data["q"]))
    assert layer.rule is not None
    bound = layer.rule.bind(program, {})
    with torch.no_grad():
        state = layer(**data)
    return torch.func.jacrev(lambda z: bound.step(z).sum(0))(state).movedim(1, 0)


def test_spectrum_and_condition_are_those_of_the_dense_jacobian() -> None:
    problem, data = problem_and_values()
    layer = layer_for(problem)
    found = fc.diagnose(layer, **data)
    jacobian = dense_jacobians(layer, data)
    radius = torch.linalg.eigvals(jacobian).abs().amax(-1)
    assert torch.allclose(found.spectral_radius, radius, rtol=1e-8)
    condition = torch.linalg.cond(torch.eye(N, dtype=torch.float64) - jacobian)
    assert torch.allclose(found.condition, condition, rtol=1e-8)
    assert (found.fixed_point_residual < 1e-7).all()


def test_a_good_layer_has_small_errors() -> None:
    problem, data = problem_and_values()
    found = fc.diagnose(layer_for(problem), **data)
    assert (found.gradient_error < 1e-5).all()
    assert (found.difference_error < 1e-5).all()


def test_best_step_minimises_the_radius() -> None:
    problem, data = problem_and_values()
    layer = layer_for(problem)
    found = fc.diagnose(layer, **data)
    assert found.step is not None
    assert found.best_step is not None
    assert found.best_radius is not None
    assert (found.best_radius <= found.spectral_radius * (1 + 1e-9)).all()
    for factor in (0.7, 0.9, 1.1, 1.4):
        for i in range(3):
            step = float(found.best_step[i]) * factor
            other = layer_for(problem, rule={"kind": "pgd", "step_size": step})
            one = {k: v[i : i + 1] for k, v in data.items()}
            assert fc.diagnose(other, **one).spectral_radius[0] >= found.best_radius[i] - 1e-9


def test_step_size_auto_takes_the_best_step() -> None:
    problem, data = problem_and_values()
    found = fc.diagnose(layer_for(problem), **data)
    auto = fc.diagnose(layer_for(problem, rule={"kind": "pgd", "step_size": "auto"}), **data)
    assert found.best_radius is not None
    assert torch.allclose(auto.spectral_radius, found.best_radius, rtol=1e-6)


def test_inaccurate_solver_shows_in_the_gradient_error_and_the_advice() -> None:
    n = 4
    problem = fc.Problem(
        n, lambda x, c: ((x - c) ** 4).sum() + x.square().sum(), {"c": fc.Param(n)}
    )

    def solved(program: fc.SmoothProgram, iterations: int) -> Tensor:
        x = torch.zeros(program.batch, n, dtype=torch.float64)
        for _ in range(iterations):  # Newton
            x = x - program.gradient(x) / torch.diagonal(program.hessian(x), dim1=-2, dim2=-1)
        return x

    c = torch.linspace(0.5, 2.0, 2 * n, dtype=torch.float64).reshape(2, n)
    relaxed = {
        "kkt": {"on_violation": "ignore", "reject_above": 10.0},
        "fixed_point": {"on_violation": "ignore"},
    }
    errors = []
    for iterations in (30, 3):
        layer = fc.build(
            {"problem": problem, "solver": lambda p, k=iterations: solved(p, k), "rule": "pgd",
             "adjoint": "gmres", **relaxed}
        )  # fmt: skip
        found = fc.diagnose(layer, c=c)
        errors.append(float(found.gradient_error.max()))
    assert errors[0] < 1e-8
    assert errors[1] > 1e-4
    assert any("polish" in sentence for sentence in found.advice)


def test_too_long_a_step_is_reported() -> None:
    problem, data = problem_and_values()
    largest = float(torch.linalg.eigvalsh(data["P"]).max())
    layer = layer_for(problem, rule={"kind": "pgd", "step_size": 5 / largest})
    found = fc.diagnose(layer, **data)
    assert (found.spectral_radius > 1).any()
    assert any("lfpi diverges" in sentence for sentence in found.advice)


def test_wrong_rule_is_caught_by_central_differences() -> None:
    """A rule that is at rest at the solution but differentiates another problem."""
    pgd = fc.registry.update_rules.load("pgd")

    class Wrong(pgd):  # type: ignore[misc, valid-type]
        def bind(self, program: fc.SmoothProgram, inner: object) -> fc.BoundRule:
            bound = super().bind(program, inner)
            step = bound.step
            bound.step = lambda z: step(z) + 0.3 * (step(z) - step(z).detach())
            bound.at = lambda z: bound
            return bound

    problem, data = problem_and_values()
    layer = layer_for(problem, rule=Wrong(pgd.config_class(step_size=0.1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.FoldcoreWarning)
        found = fc.diagnose(layer, **data)
    assert (found.difference_error > 1e-3).any()
    assert any("Central differences disagree" in sentence for sentence in found.advice)


def test_shared_parameters_and_rules_without_a_step() -> None:
    pytest.importorskip("foldcore_newton", reason="diagnoses the rule foldcore-newton")
    problem, data = problem_and_values()
    shared = {**data, "P": data["P"][0]}
    found = fc.diagnose(layer_for(problem, rule="newton"), **shared)
    assert torch.equal(found.spectral_radius, torch.zeros(3, dtype=torch.float64))
    assert found.step is None
    assert found.best_step is None
    assert (found.difference_error < 1e-5).all()


def test_a_layer_without_a_rule_is_refused() -> None:
    pytest.importorskip("foldcore_qpth", reason="a differentiable solver")
    problem, data = problem_and_values()
    layer = fc.build({"problem": problem, "solver": "qpth"})
    with pytest.raises(fc.ConfigError, match="no update rule"):
        fc.diagnose(layer, **data)
