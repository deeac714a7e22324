"""The four modes differentiate one and the same configuration and agree on converged problems."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

pytest.importorskip("foldcore_pgd", reason="iterates the rule foldcore-pgd")
pytest.importorskip("foldcore_gmres", reason="folds with foldcore-gmres")

N = 6
MODES = ("fold", "fixed_point_unfold", "unfold", "unroll")


def gradients(mode: str, rule: object = "pgd", iterations: int = 400) -> dict[str, Tensor]:
    data = random_qp(4, N, batch=3)
    options = {} if mode == "fold" else {"iterations": iterations}
    layer = fc.build(
        {"problem": declare(data, set(data)), "solver": "iterate", "rule": rule, "mode": mode,
         "adjoint": {"kind": "gmres", "rtol": 1e-13}, **options}
    )  # fmt: skip
    params = {name: value.clone().requires_grad_() for name, value in data.items()}
    weights = torch.linspace(-1, 1, N, dtype=torch.float64)
    (layer(**params) * weights).sum().backward()
    return {name: value.grad for name, value in params.items()}


@pytest.mark.parametrize("mode", MODES[1:])
def test_modes_agree_on_a_converged_problem(mode: str) -> None:
    """To 1e-9: 400 steps contract by ρ(Φ)^400, and rounding accumulates over as many."""
    folded = gradients("fold")
    for name, value in gradients(mode).items():
        scale = max(float(folded[name].norm()), 1.0)
        assert (value - folded[name]).norm() <= 1e-9 * scale, name


def test_unroll_unrolls_the_inner_problem_and_unfold_folds_it() -> None:
    inner: dict[str, object] = {"solver": "iterate", "rule": "pgd", "adjoint": "gmres"}
    rule = {"kind": "pgd", "projection": "inner", "inner": inner}
    config = {"problem": declare(random_qp(4, N), {"q"}), "solver": "iterate", "rule": rule}
    for mode, expected in (("unroll", "unroll"), ("unfold", "fold")):
        layer = fc.build({**config, "adjoint": "gmres", "mode": mode, "iterations": 7})
        assert layer.inner["inner"].config.mode == expected
    # With P = I the inner iteration arrives in one step, so that two are plenty.
    inner.update(mode="unroll", iterations=2)
    folded = gradients("fold")
    unrolled = gradients("unroll", rule)
    for name in ("P", "q", "lower", "upper"):
        scale = max(float(folded[name].norm()), 1.0)
        assert (unrolled[name] - folded[name]).norm() <= 1e-9 * scale, name


def test_one_unfolded_step_from_a_given_start_is_that_step() -> None:
    problem = fc.QuadraticProgram(
        P=torch.eye(2, dtype=torch.float64), q=fc.Param(2), lower=torch.zeros(2)
    )
    layer = fc.build(
        {"problem": problem, "solver": "iterate", "rule": {"kind": "pgd", "step_size": 0.25},
         "adjoint": "gmres", "mode": "unfold", "iterations": 1,
         "kkt": {"on_violation": "ignore", "reject_above": 1e9}}
    )  # fmt: skip
    start = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    q = torch.tensor([[-1.0, 20.0]], dtype=torch.float64, requires_grad=True)
    warm = fc.Solution(start, (fc.Status.OPTIMAL,))
    x = layer(q=q, warm_start=warm)
    assert torch.equal(x, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    x.sum().backward()
    assert torch.equal(q.grad, torch.tensor([[-0.25, 0.0]], dtype=torch.float64))


def test_iterations_without_effect_are_refused() -> None:
    problem = declare(random_qp(4, N), {"q"})
    with pytest.raises(fc.ConfigError, match="iterations has no effect in mode fold"):
        fc.build({"problem": problem, "solver": "iterate", "rule": "pgd", "iterations": 5})


def test_iterations_sets_their_number() -> None:
    few, many = gradients("fixed_point_unfold", iterations=1), gradients("fixed_point_unfold")
    assert (few["q"] - many["q"]).norm() > 1e-3


def test_a_diverging_fixed_point_unfolding_is_never_returned_silently() -> None:
    problem = fc.QuadraticProgram(P=torch.eye(2, dtype=torch.float64), q=fc.Param(2))
    config = {
        "problem": problem, "solver": lambda program: -program.data.q, "adjoint": "gmres",
        "mode": "fixed_point_unfold", "iterations": 50,
    }  # fmt: skip
    q = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    diverging = fc.build({**config, "rule": {"kind": "pgd", "step_size": 2.5}})
    with pytest.raises(fc.AdjointError, match="fixed_point_unfold diverges for samples 0, 1, 2"):
        diverging(q=q).sum().backward()
    q = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    converging = fc.build({**config, "rule": {"kind": "pgd", "step_size": 1.5}})
    converging(q=q).sum().backward()
    assert torch.allclose(q.grad, torch.full_like(q, -1.0), rtol=0, atol=1e-12)
