"""The layer itself: shapes, buffers, policies, warm starts, sessions, what solve() returns."""

from __future__ import annotations

import math
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

for name in ("newton", "pgd", "osqp", "direct"):
    pytest.importorskip(f"foldcore_{name}", reason=f"layers are built with foldcore-{name}")

N, B = 3, 4
ONES = torch.ones(N, dtype=torch.float64)
EYE = torch.eye(N, dtype=torch.float64)


def problem(**fields: Any) -> fc.QuadraticProgram:
    return fc.QuadraticProgram(
        **{"P": EYE, "q": fc.Param(N), "lower": -ONES, "upper": ONES, **fields}
    )


def layer_of(declared: fc.ParametricProblem | None = None, **config: Any) -> fc.Fold:
    return fc.build(
        {"problem": declared or problem(), "solver": "osqp", "rule": "newton", **config}
    )


def spread(*shape: int) -> Tensor:
    count = math.prod(shape)
    return torch.linspace(-2.0, 1.9, count, dtype=torch.float64).reshape(shape)


def test_shapes_follow_the_arguments() -> None:
    layer = layer_of()
    assert layer(q=ONES).shape == (N,)
    assert layer(q=ONES[None]).shape == (1, N)
    assert layer(q=spread(B, N)).shape == (B, N)
    alone = layer.solve(q=ONES)
    assert alone.duals is not None
    assert alone.duals.lower.shape == (N,)
    assert alone.status == (fc.Status.OPTIMAL,)


def test_calls_without_gradient_leave_no_graph() -> None:
    q = spread(B, N).requires_grad_()
    with torch.no_grad():
        assert layer_of()(q=q).grad_fn is None
    assert layer_of()(q=q.detach()).grad_fn is None
    assert layer_of()(q=q).requires_grad


def test_learnable_parameters_are_registered_and_constants_are_buffers() -> None:
    layer = layer_of(problem(q=fc.Param(N, init=spread(N))))
    assert [name for name, _ in layer.named_parameters()] == ["q"]
    assert {id(b) for b in layer.buffers()} >= {id(layer.constant_P), id(layer.constant_lower)}
    assert list(layer.state_dict()) == ["q"], "constants belong to the definition, not the state"
    layer().sum().backward()
    assert layer.q.grad is not None
    inside = nn.Sequential(nn.Linear(2, 2), layer)
    assert "1.q" in dict(inside.named_parameters())
    layer.float()
    assert layer().dtype == torch.float32


def test_duals_are_differentiable_only_from_solve() -> None:
    q = (3 * ONES).requires_grad_()
    solution = layer_of().solve(q=q)
    assert solution.duals is not None
    torch.testing.assert_close(solution.duals.lower, 2 * ONES, rtol=0, atol=1e-8)
    solution.duals.lower.sum().backward()
    torch.testing.assert_close(q.grad, ONES)


@pytest.mark.parametrize("solver", ["osqp", "iterate"])
def test_warm_starts_speed_up_and_change_nothing(solver: str) -> None:
    data = random_qp(0, 8, batch=B)
    layer = layer_of(
        declare({k: v[0] for k, v in data.items()}, set(data)), solver=solver, rule="pgd"
    )
    cold = layer.solve(**data)
    warm = layer.solve(**data, warm_start=cold)
    torch.testing.assert_close(warm.primal, cold.primal, rtol=0, atol=1e-8)
    assert sum(warm.iterations) < sum(cold.iterations)
    one = {k: v[0] for k, v in data.items()}
    alone = layer.solve(**one)
    again = layer.solve(**one, warm_start=alone)
    torch.testing.assert_close(again.primal, alone.primal, rtol=0, atol=1e-8)


def test_a_warm_start_with_masked_samples_is_usable() -> None:
    q = spread(B, N)
    broken = q.clone()
    broken[1] = math.nan
    layer = layer_of(on_failure="mask")
    with pytest.warns(fc.SolveWarning):
        start = layer.solve(q=broken)
    assert layer.solve(q=q, warm_start=start).primal.isfinite().all()


def test_a_warm_start_holds_no_graph() -> None:
    q = spread(B, N).requires_grad_()
    layer = layer_of()
    start = layer.solve(q=q)
    found = layer(q=q, warm_start=start)
    found.sum().backward()
    torch.testing.assert_close(q.grad, -(q.detach().abs() < 1).double())


def test_sessions_are_opened_once_per_dtype_and_thread() -> None:
    opened: list[tuple[int, ...]] = []

    class Counting(fc.CallableSolver):
        def open(self, structure: fc.ProgramStructure) -> fc.Session:
            opened.append((threading.get_ident(),))
            return super().open(structure)

    layer = layer_of(solver=Counting(lambda p: (-p.data.q).clamp(-1, 1)))
    for _ in range(3):
        layer(q=spread(B, N))
    assert len(opened) == 1
    layer(q=spread(B, N).float())
    assert len(opened) == 2
    answers: list[Tensor] = []
    thread = threading.Thread(target=lambda: answers.append(layer(q=spread(B, N))))
    thread.start()
    thread.join()
    assert len(opened) == 3
    assert torch.equal(answers[0], layer(q=spread(B, N)))


def test_certificates_of_failed_samples_are_not_those_of_their_placeholders() -> None:
    q = spread(B, N)
    q[2] = math.nan
    with pytest.warns(fc.SolveWarning):
        solution = layer_of(on_failure="mask").solve(q=q.requires_grad_())
    assert solution.kkt is not None
    assert solution.fixed_point_residual is not None
    for value in (solution.kkt.residual, solution.kkt.margin, solution.fixed_point_residual):
        assert value.isnan().tolist() == [False, False, True, False]
    assert solution.messages[2] != ""
    assert solution.failed == (2,)


def test_a_batch_in_which_all_failed_has_a_certificate_of_nan() -> None:
    q = torch.full((B, N), math.nan, dtype=torch.float64)
    for config in ({}, {"fixed_point": {"polish": 1}}, {"solver": lambda p: q.nan_to_num() + 9}):
        given = q if "solver" not in config else spread(B, N)
        with pytest.warns(fc.SolveWarning, match="4 of 4 samples failed"):
            solution = layer_of(on_failure="mask", **config).solve(q=given.clone().requires_grad_())
        assert solution.failed == (0, 1, 2, 3)
        assert solution.kkt is not None
        for name, value in vars(solution.kkt).items():
            assert value.shape == (B,), name
            assert not value.any() if value.dtype == torch.bool else value.isnan().all(), name
        assert solution.kkt.residual.isnan().all()
        assert solution.kkt.residual.dtype == torch.float64


def test_reports_of_inner_folds_are_kept_by_their_path() -> None:
    inner = {"solver": "osqp", "rule": "newton"}
    layer = layer_of(rule={"kind": "pgd", "projection": "inner", "inner": inner})
    solution = layer.solve(q=spread(B, N).requires_grad_())
    assert list(solution.inner) == ["rule.inner"]
    assert solution.inner["rule.inner"].status == (fc.Status.OPTIMAL,) * B
    assert layer.inner["inner"].path == "rule.inner"


@pytest.mark.parametrize("mode", ["unfold", "unroll"])
def test_a_diverging_sample_of_an_unrolled_layer_harms_no_other(mode: str) -> None:
    """It overflows; a zero cotangent times inf would be NaN in the shared parameter's gradient."""
    layer = layer_of(
        problem(P=fc.Param(N, N, psd=True), q=fc.Param(N), lower=-math.inf, upper=math.inf),
        solver="iterate", rule={"kind": "pgd", "step_size": 0.9}, mode=mode, iterations=300,
        on_failure="mask",
    )  # fmt: skip
    P = torch.stack([EYE, 1e4 * EYE]).requires_grad_()
    q = ONES.clone().requires_grad_()
    with pytest.warns(fc.SolveWarning):
        x = layer(P=P, q=q)
    assert x.isfinite().all(-1).tolist() == [True, False]
    torch.nan_to_num(x).sum().backward()
    torch.testing.assert_close(q.grad, -ONES)
    torch.testing.assert_close(P.grad[0], torch.ones(N, N, dtype=torch.float64))
    assert (P.grad[1] == 0).all()


def test_a_differentiable_solver_needs_neither_rule_nor_adjoint() -> None:
    pytest.importorskip("foldcore_qpth", reason="the differentiable solver is foldcore-qpth")
    layer = fc.build({"problem": problem(), "solver": "qpth"})
    assert layer.rule is None
    assert layer.adjoint is None
    q = spread(B, N).requires_grad_()
    layer(q=q).sum().backward()
    torch.testing.assert_close(q.grad, -(q.detach().abs() < 1).double(), rtol=0, atol=1e-5)
    with pytest.raises(fc.ConfigError, match=r"adjoint: .* no effect"):
        fc.build({"problem": problem(), "solver": "qpth", "adjoint": "direct"})


def test_training_through_a_layer_learns_its_parameters() -> None:
    """The point of it all: a learnable cost is recovered from solutions."""
    truth = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)
    layer = layer_of(problem(q=fc.Param(N, init=0 * ONES)))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(50):
        optimiser.zero_grad()
        (layer() + truth).square().sum().backward()
        optimiser.step()
    torch.testing.assert_close(layer.q.detach(), truth, rtol=0, atol=1e-9)


def test_good_calls_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer_of()(q=spread(B, N).requires_grad_()).sum().backward()


def test_a_batch_takes_over_what_did_not_change() -> None:
    first = fc.BatchData(fc.QuadraticData(n=N, P=EYE, q=spread(B, N)), B)
    other = fc.QuadraticData(n=N, P=2 * EYE, q=spread(B, N) + 1)
    kept = fc.BatchData(other, B, before=first.without_rows(), changed=frozenset({"q"}))
    assert kept.sample(1).fields["P"] is first.sample(0).fields["P"]
    assert kept.sample(1).vector("q", N, 0.0).tolist() == (spread(B, N) + 1)[1].tolist()
    sent = fc.BatchData(other, B, before=first.without_rows(), changed=frozenset({"P", "q"}))
    assert float(sent.sample(0).dense("P", N)[0, 0]) == 2.0


def test_an_unsound_constant_stays_unsound_for_the_next_batch() -> None:
    first = fc.BatchData(fc.QuadraticData(n=N, P=EYE * float("nan"), q=spread(B, N)), B)
    assert first.sample(0).unsound == ("P",)
    data = fc.QuadraticData(n=N, P=EYE, q=spread(B, N))
    next_one = fc.BatchData(data, B, before=first.without_rows(), changed=frozenset({"q"}))
    assert next_one.sample(B - 1).unsound == ("P",)


def test_an_interrupted_call_stops_the_threads_it_started() -> None:
    import joblib

    begun, release, seen = threading.Event(), threading.Event(), []

    def work(items: Any) -> list[int]:
        done = []
        for item in items:
            if item == 0:
                begun.wait(20)
                raise RuntimeError("planted")
            begun.set()
            seen.append(item)
            release.wait(0.2)
            done.append(item)
        return done

    with joblib.parallel_config(backend="threading"), pytest.raises(RuntimeError, match="planted"):
        fc.run_chunks(work, range(200), 2)
    release.set()
    count = len(seen)
    assert count < 100
    threading.Event().wait(0.5)
    assert len(seen) <= count + 1
