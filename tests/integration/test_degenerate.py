"""Degenerate solutions end to end: the cases told apart, per sample, never a silent number."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.interfaces.rule import InnerFold

pytest.importorskip("foldcore_pgd", reason="folds with foldcore-pgd")
pytest.importorskip("foldcore_direct", reason="folds with foldcore-direct")

ADJOINTS = [
    pytest.param("direct", id="direct"),
    pytest.param(
        "auto",
        id="auto",
        marks=pytest.mark.skipif(
            "auto" not in fc.registry.adjoint_solvers.names(), reason="needs foldcore-auto"
        ),
    ),
]
F64 = torch.float64


def tensor(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=F64)


# Case 1. Singular and consistent: multipliers of a constraint that is stated twice.


class MultiplierRule(fc.UpdateRule):
    """x⁺ = x - α(Px + q + Aᵀν), ν⁺ = ν + α(Ax - b); I - Φ is singular where rows of A depend."""

    api_version = 1
    config_class = fc.PluginConfig

    def __init__(self, config: fc.PluginConfig) -> None:
        self.config = config

    def unsupported_reason(self, structure: fc.ProgramStructure) -> str | None:
        return None

    def bind(self, program: fc.SmoothProgram, inner: Mapping[str, InnerFold]) -> fc.BoundRule:
        return BoundMultiplier(program)


class BoundMultiplier(fc.BoundRule):
    def __init__(self, program: fc.SmoothProgram) -> None:
        self._program = program

    def initial(self, primal: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def lift(self, solution: fc.Solution) -> Tensor:
        assert solution.duals is not None
        return torch.cat([solution.primal, solution.duals.equality], -1)

    def primal(self, state: Tensor) -> Tensor:
        return state[:, : self._program.n]

    def step(self, state: Tensor) -> Tensor:
        data, n = self._program.data, self._program.n
        x, nu = state[:, :n], state[:, n:]
        slope = fc.matvec(data.P, x) + data.q + fc.rmatvec(data.A, nu)
        gap = fc.matvec(data.A, x) - data.b
        return torch.cat([x - 0.3 * slope, nu + 0.3 * gap], -1)


P = torch.diag(tensor(1.0, 2.0, 4.0))
ROW = tensor(1.0, 1.0, 1.0)
TWICE = torch.stack([ROW, 2 * ROW])


def equality_solution(program: Any) -> fc.Solution:
    """Solve min ½xᵀPx + qᵀx s.t. Σx = 1 in closed form; the multiplier goes to the first row."""
    q = program.data.q.expand(program.batch, 3)
    inverse = 1 / P.diagonal()
    nu = -(1 + (inverse * q).sum(-1, keepdim=True)) / inverse.sum()
    x = -inverse * (q + nu)
    none = torch.zeros_like(x)
    duals = fc.Duals(
        equality=torch.cat([nu, 0 * nu], -1), inequality=none[:, :0], lower=none, upper=none
    )
    return fc.Solution(x, (fc.Status.OPTIMAL,) * program.batch, duals)


def twice_stated(params: set[str], adjoint: str, **config: Any) -> fc.Fold:
    b = fc.Param(2) if "b" in params else tensor(1.0, 2.0)
    problem = fc.QuadraticProgram(P=P, q=fc.Param(3), A=TWICE, b=b)
    rule = MultiplierRule(fc.PluginConfig())
    return fc.build(
        {"problem": problem, "solver": fc.solver(equality_solution), "rule": rule,
         "adjoint": adjoint, **config}
    )  # fmt: skip


Q = tensor([0.3, -1.0, 2.0], [1.0, 1.0, -0.5])
WEIGHTS = tensor([1.0, -2.0, 0.7], [0.2, 1.0, 3.0])


def equality_gradient() -> Tensor:
    """-(P⁻¹ - P⁻¹a aᵀP⁻¹ / aᵀP⁻¹a) w per sample."""
    inverse = 1 / P.diagonal()
    projected = torch.diag(inverse) - torch.outer(inverse, inverse) / inverse.sum()
    return -WEIGHTS @ projected


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_singular_system_with_a_unique_gradient_is_right_and_reported(adjoint: str) -> None:
    layer = twice_stated({"q"}, adjoint)
    q = Q.clone().requires_grad_()
    loss = (layer(q=q) * WEIGHTS).sum()
    with pytest.warns(fc.DegenerateWarning, match=r"samples 0, 1 is singular.*unique all the same"):
        loss.backward()
    assert q.grad is not None
    assert (q.grad - equality_gradient()).norm() <= 1e-10 * WEIGHTS.norm()


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_only_the_samples_that_are_asked_about_are_reported(adjoint: str) -> None:
    layer = twice_stated({"q"}, adjoint)
    q = Q.clone().requires_grad_()
    loss = (layer(q=q)[1] * WEIGHTS[1]).sum()
    with pytest.warns(fc.DegenerateWarning, match="samples 1 is singular"):
        loss.backward()
    assert q.grad is not None
    assert torch.equal(q.grad[0], torch.zeros(3, dtype=F64))
    assert (q.grad[1] - equality_gradient()[1]).norm() <= 1e-10 * WEIGHTS.norm()


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_gradient_that_is_not_unique_raises_or_is_accepted_as_configured(adjoint: str) -> None:
    """A right-hand side of the doubled row that moves alone makes the problem infeasible."""
    q, b = Q.clone().requires_grad_(), tensor(1.0, 2.0).requires_grad_()
    loss = (twice_stated({"q", "b"}, adjoint)(q=q, b=b) * WEIGHTS).sum()
    with pytest.raises(fc.DegenerateError, match=r"not unique.*minimum_norm") as caught:
        loss.backward()
    assert caught.value.samples == (0, 1)

    layer = twice_stated({"q", "b"}, adjoint, degeneracy={"policy": "minimum_norm"})
    loss = (layer(q=q, b=b) * WEIGHTS).sum()
    with pytest.warns(fc.DegenerateWarning, match="minimum-norm"):
        loss.backward()
    assert q.grad is not None
    assert b.grad is not None
    assert (q.grad - equality_gradient()).norm() <= 1e-10 * WEIGHTS.norm()
    # Rows (1, 2)·a share one direction: the least-norm adjoint moves both right-hand sides
    # together, so that its gradient is that of the single row split as (1, 2)/5.
    inverse = 1 / P.diagonal()
    single = (WEIGHTS @ inverse / inverse.sum()).sum()
    assert torch.allclose(b.grad, single * tensor(0.2, 0.4), rtol=1e-9)


# Case 2. No strict complementarity: x* = max(-q, 0), a kink at q = 0.

KINK = tensor([-1.0], [0.0], [1.0])


def half_line(rule: str, **config: Any) -> fc.Fold:
    problem = fc.QuadraticProgram(
        P=torch.eye(1, dtype=F64), q=fc.Param(1), lower=torch.zeros(1, dtype=F64)
    )

    def closed_form(program: Any) -> Tensor:
        return (-program.data.q).clamp(min=0)

    return fc.build(
        {"problem": problem, "solver": fc.solver(closed_form), "rule": rule, "adjoint": "direct",
         **config}
    )  # fmt: skip


RULES = [
    name for name in ("pgd", "newton", "sqp", "admm") if name in fc.registry.update_rules.names()
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("policy", ["one_sided", "minimum_norm"])
def test_a_kink_gives_a_one_sided_gradient_with_a_warning(rule: str, policy: str) -> None:
    layer = half_line(rule, degeneracy={"policy": policy})
    q = KINK.clone().requires_grad_()
    with pytest.warns(fc.DegenerateWarning, match=r"1 samples \(1\) are degenerate.*one-sided"):
        x = layer(q=q)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.DegenerateWarning)
        x.sum().backward()
    assert q.grad is not None
    assert abs(float(q.grad[0]) + 1) < 1e-9
    assert abs(float(q.grad[2])) < 1e-9
    assert min(abs(float(q.grad[1]) + 1), abs(float(q.grad[1]))) < 1e-9, "the left or right one"


@pytest.mark.parametrize("rule", RULES)
def test_a_kink_raises_where_that_is_asked_for(rule: str) -> None:
    layer = half_line(rule, degeneracy={"policy": "raise"})
    with pytest.raises(fc.DegenerateError, match="kink") as caught:
        layer(q=KINK.clone().requires_grad_())
    assert caught.value.samples == (1,)
    with torch.no_grad():
        assert torch.equal(layer(q=KINK), (-KINK).clamp(min=0)), "no gradient, no question"
    layer(q=KINK[[0, 2]].requires_grad_()).sum().backward()


def test_margin_decides_what_counts_as_a_kink() -> None:
    near = tensor([-1.0], [1e-4], [1.0])
    half_line("pgd", degeneracy={"policy": "raise"})(q=near.requires_grad_())
    with pytest.raises(fc.DegenerateError):
        half_line("pgd", degeneracy={"policy": "raise", "margin": 1e-3})(q=near.requires_grad_())


# Case 3. Singular and inconsistent: the objective does not determine x₁.


def flat(adjoint: str, **config: Any) -> fc.Fold:
    """min ½(x₀² + p x₁²) + qᵀx with |x| <= 1; for p = 0, q₁ = 0 every x₁ is optimal."""
    box = torch.ones(2, dtype=F64)
    problem = fc.QuadraticProgram(P=fc.Param(2, 2, psd=True), q=fc.Param(2), lower=-box, upper=box)

    def closed_form(program: Any) -> Tensor:
        curvature = program.data.P.diagonal(dim1=-2, dim2=-1)
        return torch.where(curvature > 0, -program.data.q / curvature, 0.25)

    return fc.build(
        {"problem": problem, "solver": fc.solver(closed_form), "rule": "pgd", "adjoint": adjoint,
         **config}
    )  # fmt: skip


CURVATURES = torch.diag_embed(tensor([1.0, 2.0], [1.0, 0.0], [1.0, 4.0]))
SLOPES = tensor([0.3, 0.4], [0.3, 0.0], [0.3, -0.8])
EXPECTED = tensor([-1.0, -0.5], [0.0, 0.0], [-1.0, -0.25])


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_an_inconsistent_system_is_an_error_that_names_its_sample(adjoint: str) -> None:
    q = SLOPES.clone().requires_grad_()
    loss = flat(adjoint)(P=CURVATURES, q=q).sum()
    with pytest.raises(
        fc.AdjointError, match=r"did not converge for 1 of 3 samples \(1\)"
    ) as caught:
        loss.backward()
    assert caught.value.samples == (1,)
    if adjoint == "auto":
        assert "g does not lie in its range" in str(caught.value)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_an_inconsistent_sample_harms_no_other(adjoint: str) -> None:
    layer = flat(adjoint, on_adjoint_failure="mask")
    q = SLOPES.clone().requires_grad_()
    loss = layer(P=CURVATURES, q=q).sum()
    with pytest.warns(fc.AdjointWarning, match="gradients are zero"):
        loss.backward()
    clean = SLOPES[[0, 0, 2]].requires_grad_()
    layer(P=CURVATURES[[0, 0, 2]], q=clean).sum().backward()
    assert q.grad is not None
    assert clean.grad is not None
    assert torch.equal(q.grad[[0, 2]], clean.grad[[0, 2]])
    assert (q.grad - EXPECTED).abs().max() < 1e-9


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_consistent_cotangent_of_the_same_sample_is_still_not_unique(adjoint: str) -> None:
    """x₀ alone does not feel that x₁ is free, but q₁ moves x₁ by any amount."""
    q = SLOPES.clone().requires_grad_()
    loss = flat(adjoint)(P=CURVATURES, q=q)[:, 0].sum()
    with pytest.raises(fc.DegenerateError, match="samples 1 is singular"):
        loss.backward()
    loss = flat(adjoint, degeneracy={"policy": "minimum_norm"})(P=CURVATURES, q=q)[:, 0].sum()
    with pytest.warns(fc.DegenerateWarning, match="minimum-norm"):
        loss.backward()
    assert q.grad is not None
    assert (q.grad - tensor([-1.0, 0.0])).abs().max() < 1e-9


def test_iterations_alone_would_be_silent() -> None:
    """Why direct and auto look: gmres converges on the singular system without noticing."""
    pytest.importorskip("foldcore_gmres", reason="compares with foldcore-gmres")
    q = SLOPES.clone().requires_grad_()
    flat("gmres")(P=CURVATURES, q=q)[:, 0].sum().backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()
