"""Duals and reports as wholes: mapped, and chosen sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor

import foldcore as fc

B = 3


def duals(seed: int) -> fc.Duals:
    generator = torch.Generator().manual_seed(seed)
    sizes = (2, 0, 4, 4)
    return fc.Duals(*(torch.randn(B, k, generator=generator, dtype=torch.float64) for k in sizes))


def report(value: float, unique: bool) -> fc.KKTReport:
    numbers = [torch.arange(B) + value + k / 10 for k in range(6)]
    return fc.KKTReport(*numbers, torch.full((B,), unique))


def test_map_reaches_every_part_and_keeps_its_name() -> None:
    given = duals(0)
    doubled = given.map(lambda value: 2 * value)
    for name, value in vars(given).items():
        assert torch.equal(getattr(doubled, name), 2 * value), name
    shapes: list[tuple[int, ...]] = []

    def note(value: Tensor) -> Tensor:
        shapes.append(tuple(value.shape))
        return value

    assert vars(report(1.0, True).map(note)).keys() == vars(report(1.0, True)).keys()
    assert shapes == [(B,)] * 7


def test_where_takes_each_sample_whole_from_one_or_the_other() -> None:
    mask = torch.tensor([True, False, True])
    first, second = duals(1), duals(2)
    chosen = first.where(mask, second)
    for name, value in vars(chosen).items():
        for i, taken in enumerate(mask.tolist()):
            source = first if taken else second
            assert torch.equal(value[i], getattr(source, name)[i]), (name, i)
    reports = report(1.0, True).where(mask, report(100.0, False))
    assert reports.unique_duals.tolist() == [True, False, True]
    assert reports.unique_duals.dtype == torch.bool
    assert (
        reports.margin.tolist()
        == report(1.0, True).margin.where(mask, report(100.0, False).margin).tolist()
    )


def test_gradients_pass_to_the_chosen_samples_alone() -> None:
    first = duals(3).map(lambda value: value.requires_grad_())
    second = duals(4).map(lambda value: value.requires_grad_())
    mask = torch.tensor([True, False, False])
    first.where(mask, second).lower.sum().backward()
    assert first.lower.grad is not None
    assert second.lower.grad is not None
    assert torch.equal(first.lower.grad[:, 0], mask.double())
    assert torch.equal(second.lower.grad[:, 0], (~mask).double())
