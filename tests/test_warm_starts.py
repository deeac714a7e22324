"""Warm starts keyed by sample: they survive shuffling, and change speed but not answers."""

from __future__ import annotations

import pytest
import torch

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

pytest.importorskip("foldcore_pgd", reason="iterates the rule foldcore-pgd")
pytest.importorskip("foldcore_gmres", reason="folds with foldcore-gmres")

B, N = 6, 5
DATA = random_qp(3, N, batch=B)


def layer(solver: object) -> fc.Fold:
    one = {name: value[0] for name, value in DATA.items()}
    return fc.build(
        {"problem": declare(one, set(DATA)), "solver": solver, "rule": "pgd", "adjoint": "gmres"}
    )


def batch(order: list[int]) -> dict[str, torch.Tensor]:
    return {name: value[order] for name, value in DATA.items()}


@pytest.mark.parametrize("solver", ["iterate", "osqp", "daqp"])
def test_a_shuffled_epoch_starts_at_its_own_solutions(solver: str) -> None:
    if solver != "iterate":
        pytest.importorskip(f"foldcore_{solver}", reason=f"solves with foldcore-{solver}")
    made, starts = layer(solver), fc.WarmStarts()
    first = starts.solve(made, list(range(B)), **batch(list(range(B))))
    order = [3, 0, 5, 1, 4, 2]
    again = starts.solve(made, order, **batch(order))
    assert torch.allclose(again.primal, first.primal[order], rtol=0, atol=1e-7)
    if solver == "iterate":
        assert max(again.iterations) <= 2 < min(first.iterations)
        wrong = fc.WarmStarts()
        wrong.remember(order, first)  # keys that belong to other samples
        assert max(wrong.solve(made, list(range(B)), **batch(list(range(B)))).iterations) > 2


def test_unknown_and_failed_samples_start_cold() -> None:
    made, starts = layer("iterate"), fc.WarmStarts()
    starts.solve(made, ["a", "b"], **batch([0, 1]))
    mixed = starts.solve(made, ["c", "b"], **batch([2, 1]))
    cold = made.solve(**batch([2, 1]))
    assert mixed.iterations[0] == cold.iterations[0]
    assert mixed.iterations[1] <= 2
    failed = fc.Solution(cold.primal, (fc.Status.NUMERICAL, fc.Status.OPTIMAL))
    fresh = fc.WarmStarts()
    fresh.remember(["x", "y"], failed)
    assert len(fresh) == 1
    assert fresh.start(["x"]) is None


def test_capacity_forgets_the_least_recently_used() -> None:
    starts = fc.WarmStarts(capacity=2)
    solution = fc.Solution(torch.zeros(3, N), (fc.Status.OPTIMAL,) * 3)
    starts.remember(["a", "b", "c"], solution)
    assert len(starts) == 2
    assert starts.start(["a"]) is None


def test_one_key_per_sample() -> None:
    with pytest.raises(fc.ShapeError, match="2 keys"):
        fc.WarmStarts().solve(layer("iterate"), ["a", "b"], **batch([0, 1, 2]))
