"""Polishing: the polished point is the one that is judged, and it is never worse than the answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

import foldcore as fc

pytest.importorskip("foldcore_pgd", reason="folds with foldcore-pgd")
pytest.importorskip("foldcore_direct", reason="folds with foldcore-direct")
newton = pytest.importorskip("foldcore_newton", reason="folds with foldcore-newton")

B, N = 6, 4
ONES = torch.ones(N, dtype=torch.float64)


def problem() -> fc.QuadraticProgram:
    """x* = clamp(-q, -1, 1)."""
    return fc.QuadraticProgram(P=torch.diag(ONES), q=fc.Param(N), lower=-ONES, upper=ONES)


def costs() -> Tensor:
    """No entry near a kink, and a free one in every sample."""
    return torch.linspace(-1.8, 1.83, B * N, dtype=torch.float64).reshape(N, B).mT.contiguous()


def exact(q: Tensor) -> Tensor:
    return (-q).clamp(-1, 1)


def off_by(error: Tensor | float) -> Callable[[fc.SmoothProgram], Tensor]:
    """A black box whose free entries are wrong by ``error``, a number or one per sample."""

    def solve(program: fc.SmoothProgram) -> Tensor:
        q = program.data.q
        shift = torch.as_tensor(error, dtype=q.dtype).reshape(-1, 1)
        return exact(q) + shift * (q.abs() < 1)

    return solve


def layer_of(solver: object, rule: object = "newton", steps: int = 1, **more: object) -> fc.Fold:
    return fc.build(
        {"problem": problem(), "solver": solver, "rule": rule, "adjoint": "direct",
         "fixed_point": {"polish": steps}, **more}
    )  # fmt: skip


class _Spoiled(fc.BoundRule):
    """Newton's step, plus something for the samples whose costs sum to a positive number."""

    def __init__(self, bound: fc.BoundRule, program: fc.SmoothProgram, error: float) -> None:
        self._bound, self._error = bound, error
        self._spoiled = program.data.q.detach().sum(-1, keepdim=True) > 0

    def initial(self, primal: Tensor | None = None) -> Tensor:
        return self._bound.initial(primal)

    def lift(self, solution: fc.Solution) -> Tensor:
        return self._bound.lift(solution)

    def step(self, state: Tensor) -> Tensor:
        moved = self._bound.step(state)
        return torch.where(self._spoiled, moved + self._error, moved)

    def primal(self, state: Tensor) -> Tensor:
        return self._bound.primal(state)

    def duals(self, state: Tensor) -> fc.Duals | None:
        return self._bound.duals(state)


class SpoilingRule(newton.NewtonRule):
    """Polishing by it makes some samples worse by ``error``."""

    error = 1e-3

    def bind(self, program: fc.SmoothProgram, inner: Mapping[str, fc.InnerFold]) -> fc.BoundRule:
        return _Spoiled(super().bind(program, inner), program, self.error)


def spoiling(error: float) -> SpoilingRule:
    kind = type("Spoiling", (SpoilingRule,), {"error": error})
    return kind(newton.NewtonConfig())


@pytest.mark.parametrize("needs_grad", [True, False])
@pytest.mark.parametrize("error", [1e-4, 0.05])
def test_a_rough_answer_is_judged_after_polishing(error: float, needs_grad: bool) -> None:
    q = costs().requires_grad_(needs_grad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = layer_of(off_by(error)).solve(q=q)
    assert solution.status == (fc.Status.OPTIMAL,) * B
    assert solution.kkt is not None
    assert solution.kkt.residual.max() < 1e-14
    torch.testing.assert_close(solution.primal.detach(), exact(costs()), rtol=0, atol=1e-14)
    if needs_grad:
        solution.primal.sum().backward()
        torch.testing.assert_close(q.grad, -(costs().abs() < 1).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("needs_grad", [True, False])
def test_a_polished_point_that_is_still_rough_is_reported(needs_grad: bool) -> None:
    q = costs().requires_grad_(needs_grad)
    slow = {"kind": "pgd", "step_size": 1e-3}
    more = {"fixed_point": {"polish": 1, "on_violation": "ignore"}}
    with pytest.warns(fc.CertificateWarning, match="above kkt.atol for 6 samples"):
        solution = layer_of(off_by(1e-3), slow, **more).solve(q=q)
    assert solution.kkt is not None
    assert solution.kkt.residual.min() > 1e-4
    with pytest.raises(fc.CertificateError, match=r"kkt\.atol"):
        layer_of(off_by(1e-3), slow, kkt={"on_violation": "raise"}, **more).solve(q=q)
    with pytest.raises(fc.SolveError, match=r"6 of 6 samples failed.*inaccurate"):
        layer_of(off_by(0.2), slow, **more).solve(q=q)


@pytest.mark.parametrize("error", [1e-3, float("nan"), float("inf"), 1e300])
def test_each_sample_keeps_the_better_point(error: float) -> None:
    q = costs()
    worse = q.sum(-1) > 0
    assert 0 < int(worse.sum()) < B
    quiet = {"fixed_point": {"polish": 2, "on_violation": "ignore"}}
    raw = off_by(1e-7)
    answer = exact(q) + 1e-7 * (q.abs() < 1).double()
    solution = layer_of(raw, spoiling(error), **quiet).solve(q=q)
    assert torch.equal(solution.primal[worse], answer[worse])
    assert solution.kkt is not None
    assert solution.kkt.residual[worse].min() > 1e-9
    polished = layer_of(raw, steps=2).solve(q=q)
    assert torch.equal(solution.primal[~worse], polished.primal[~worse])
    assert solution.kkt.residual[~worse].max() < 1e-14
    assert solution.duals is not None
    assert polished.duals is not None
    assert torch.equal(solution.duals.lower[~worse], polished.duals.lower[~worse])


def test_rounding_is_no_reason_to_go_back() -> None:
    """An answer with a residual of exactly 0 may be polished to one of rounding error, and back."""
    q = costs()
    solution = layer_of(off_by(0.0), spoiling(1e-15), steps=3).solve(q=q)
    assert not torch.equal(solution.primal, exact(q))
    torch.testing.assert_close(solution.primal, exact(q), rtol=0, atol=1e-14)


def test_a_sample_rejected_after_polishing_harms_no_other() -> None:
    """Its step is NaN: shared gradients of the others must not be."""
    q = costs()
    bad = int(torch.nonzero(q.sum(-1) > 0)[0])
    others = [i for i in range(B) if i != bad]
    declared = fc.QuadraticProgram(
        P=torch.diag(ONES), q=fc.Param(N), lower=-ONES, upper=fc.Param(N, name="limit")
    )
    config = {"problem": declared, "rule": spoiling(float("nan")), "adjoint": "direct",
              "fixed_point": {"polish": 1, "on_violation": "ignore"},
              "on_failure": "mask"}  # fmt: skip

    def run(costs: Tensor, errors: Tensor) -> tuple[fc.Solution, Tensor, Tensor]:
        leaf, limit = costs.clone().requires_grad_(), ONES.clone().requires_grad_()
        solution = fc.build({**config, "solver": off_by(errors)}).solve(q=leaf, limit=limit)
        (solution.primal.nan_to_num() * torch.arange(1.0, N + 1)).sum().backward()
        return solution, leaf.grad, limit.grad

    good = torch.where(q.sum(-1, keepdim=True) > 0, -q, q)
    mixed = good.clone()
    mixed[bad] = q[bad]  # the only sample that is spoiled
    errors = torch.zeros(B, dtype=torch.float64)
    errors[bad] = 0.5
    expected, exact_q, exact_limit = run(good, torch.zeros(B, dtype=torch.float64))
    with pytest.warns(fc.SolveWarning, match="1 of 6 samples failed"):
        found, grad_q, grad_limit = run(mixed, errors)
    assert found.status[bad] is fc.Status.INACCURATE
    assert found.primal[bad].isnan().all()
    assert torch.equal(found.primal[others], expected.primal[others])
    assert torch.equal(grad_q[others], exact_q[others])
    assert not grad_q[bad].any()
    assert grad_limit.isfinite().all()
    share = torch.zeros_like(q)
    share[bad] = torch.arange(1.0, N + 1) * (good[bad] < -1)
    torch.testing.assert_close(grad_limit, exact_limit - share[bad], rtol=0, atol=1e-12)


def test_degeneracy_is_that_of_the_polished_point() -> None:
    """The answer leaves 1e-4 of slack at a bound without multiplier: only polishing shows the kink."""
    q = costs()[:1].clone()
    q[0, 0] = -1.0

    def solve(program: fc.SmoothProgram) -> Tensor:
        x = exact(program.data.q)
        return x - 1e-4 * (program.data.q == -1.0)

    with pytest.warns(fc.DegenerateWarning, match="degenerate"):
        layer_of(solve)(q=q.requires_grad_())
