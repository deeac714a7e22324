"""Accelerated iterations: each sample's answer, count and residual are its own, and honest."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import foldcore as fc

MATRIX = torch.diag(torch.tensor([1.0, 0.1, 1e-2, 1e-3]).double())


def targets(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -6, batch, dtype=torch.float64)[:, None]
    return scale * torch.randn(batch, 4, generator=generator, dtype=torch.float64)


def run(target: Tensor, *, max_iter: int = 5000, size: Tensor | float = 1.0) -> fc.Accelerated:
    column = size[:, None] if isinstance(size, Tensor) else size

    def step(z: Tensor) -> Tensor:
        return z - column * ((z - target) @ MATRIX)

    return fc.accelerate(
        step, torch.zeros_like(target), step_size=size, rtol=0, atol=1e-9, max_iter=max_iter
    )


def reference(target: Tensor, max_iter: int) -> tuple[Tensor, int]:
    """Return one sample's answer and count by a plain transcription of (28c, d) with restarts."""
    state = point = torch.zeros_like(target)
    weight = 1.0
    for count in range(1, max_iter + 1):
        updated = point - (point - target) @ MATRIX
        change, moved = updated - point, updated - state
        if float(change.norm()) <= 1e-9 + 10 * torch.finfo(target.dtype).eps * float(
            updated.norm()
        ):
            return updated, count
        if float((change * moved).sum()) < 0:
            weight = 1.0
        grown = (1 + (1 + 4 * weight * weight) ** 0.5) / 2
        point, state = updated + (weight - 1) / grown * moved, updated
        weight = grown
    return state, max_iter


@pytest.mark.parametrize("max_iter", [7, 5000])
def test_every_sample_follows_the_papers_momentum(max_iter: int) -> None:
    target = targets(5)
    found = run(target, max_iter=max_iter)
    for i in range(5):
        state, count = reference(target[i], max_iter)
        assert int(found.iterations[i]) == count
        assert torch.allclose(found.state[i], state, rtol=1e-12, atol=1e-15)
    assert len(set(found.iterations.tolist())) > 1 or max_iter == 7


def test_long_runs_outgrow_the_first_table_of_momenta() -> None:
    matrix = torch.tensor([1e-7]).double()
    target = torch.ones(1, 1, dtype=torch.float64)
    found = fc.accelerate(
        lambda z: z - (z - target) * matrix, torch.zeros_like(target), rtol=0, atol=0, max_iter=600
    )
    state = point = torch.zeros_like(target)
    weight = 1.0
    for _ in range(600):
        updated = point - (point - target) * matrix
        grown = (1 + (1 + 4 * weight * weight) ** 0.5) / 2
        point, state, weight = updated + (weight - 1) / grown * (updated - state), updated, grown
    assert int(found.iterations) == 600
    assert not bool(found.converged)
    assert torch.allclose(found.state, state, rtol=1e-12, atol=0)


def test_the_residual_bounds_that_of_the_returned_state() -> None:
    target = targets(4)
    size = torch.tensor([1.0, 0.5, 0.25, 0.9]).double()
    for max_iter in (9, 5000):
        found = run(target, max_iter=max_iter, size=size)
        gap = (size[:, None] * ((found.state - target) @ MATRIX)).norm(dim=-1) / size
        assert bool((gap <= found.residual * (1 + 1e-12) + 1e-15).all())
        assert bool((found.converged == (found.residual <= 1e-9 + 1e-13)).all())


def test_a_sample_that_overflows_ends_alone_and_without_a_warning() -> None:
    target = targets(3)
    factor = torch.tensor([1.0, -1e200, 1.0]).double()[:, None]

    def step(z: Tensor) -> Tensor:
        return z - factor * ((z - target) @ MATRIX)

    def clean(z: Tensor) -> Tensor:
        return z - (z - target) @ MATRIX

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fc.accelerate(step, torch.zeros_like(target), rtol=0, atol=1e-9)
    alike = fc.accelerate(clean, torch.zeros_like(target), rtol=0, atol=1e-9)
    assert found.converged.tolist() == [True, False, True]
    assert int(found.iterations[1]) < 10
    for name in ("state", "residual", "iterations"):
        mine, theirs = getattr(found, name), getattr(alike, name)
        assert torch.equal(mine[[0, 2]], theirs[[0, 2]]), name


def test_a_step_size_of_zero_never_converges() -> None:
    target = targets(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(target, size=torch.tensor([1.0, 0.0]).double())
    assert found.converged.tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_the_starts(dtype: torch.dtype) -> None:
    target = torch.ones(2, 3, dtype=dtype)
    found = fc.accelerate(lambda z: (z + target) / 2, torch.zeros_like(target), rtol=1e-4, atol=0)
    assert found.state.dtype == found.residual.dtype == dtype
    assert found.converged.dtype == torch.bool
    assert found.iterations.dtype == torch.int64
