"""Shared and batched parameters mixed freely; what is shared is never expanded or factored B times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

for name in ("newton", "pgd", "osqp", "direct", "gmres"):
    pytest.importorskip(f"foldcore_{name}", reason=f"mixed batches are shown with foldcore-{name}")

FIELDS = ("P", "q", "A", "b", "G", "h", "lower", "upper")
B, N = 3, 4
DATA = random_qp(11, N, n_equality=1, n_inequality=2)
"""One sample; batched fields are this plus a perturbation that keeps the problem feasible."""
FOLDED = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
ALONE = [frozenset({f}) for f in FIELDS]
ALL_BUT_ONE = [frozenset(FIELDS) - {f} for f in FIELDS]
ALL = [frozenset(c) for k in range(9) for c in itertools.combinations(FIELDS, k)]


def values_of(batched: frozenset[str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    values = dict(DATA)
    for field in FIELDS:
        value = DATA[field]
        change = 0.02 * torch.randn(B, *value.shape, generator=generator, dtype=torch.float64)
        if field == "P":
            change = change @ change.mT
        if field in batched:
            values[field] = value + change
    return values


def gradients(layer: fc.Fold, values: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {k: v.clone().requires_grad_() for k, v in values.items()}
    x = layer(**leaves)
    weights = torch.linspace(-1.0, 1.0, B * N, dtype=torch.float64).reshape(B, N)
    (x * weights if x.ndim == 2 else x * weights[0]).sum().backward()
    return x.detach(), {k: v.grad for k, v in leaves.items() if v.grad is not None}


def compare(layer: fc.Fold, batched: frozenset[str]) -> None:
    values = values_of(batched)
    expanded = {
        k: v if k in batched else v.expand(B, *v.shape).contiguous() for k, v in values.items()
    }
    x, found = gradients(layer, values)
    if not batched:
        assert x.shape == (N,)
        expanded = {k: v[:1] for k, v in expanded.items()}
    each_x, each = gradients(layer, expanded) if batched else gradients_of_one(layer, expanded)
    torch.testing.assert_close(x, each_x if batched else each_x[0], rtol=1e-9, atol=1e-9)
    for field in FIELDS:
        expected = each[field] if field in batched else each[field].sum(0)
        assert found[field].shape == values[field].shape, field
        torch.testing.assert_close(found[field], expected, rtol=1e-8, atol=1e-8)


def gradients_of_one(layer: fc.Fold, values: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {k: v.clone().requires_grad_() for k, v in values.items()}
    x = layer(**leaves)
    (x * torch.linspace(-1.0, 1.0, B * N, dtype=torch.float64).reshape(B, N)[0]).sum().backward()
    return x.detach(), {k: v.grad for k, v in leaves.items() if v.grad is not None}


def test_every_combination_of_shared_and_batched() -> None:
    layer = fc.build({"problem": declare(DATA, FIELDS), **FOLDED})
    with torch.no_grad():
        solution = layer.solve(**values_of(frozenset(FIELDS)))
    assert solution.duals is not None
    assert (solution.duals.inequality > 1e-3).any(), "an inequality should be active"
    assert (solution.duals.upper + solution.duals.lower > 1e-3).any(), "a bound should be active"
    for batched in ALL:
        compare(layer, batched)


@pytest.mark.parametrize(
    "batched", [frozenset(), *ALONE, *ALL_BUT_ONE], ids=lambda fields: "-".join(sorted(fields))
)
def test_combinations_through_an_inner_fold(batched: frozenset[str]) -> None:
    rule = {"kind": "pgd", "projection": "inner", "inner": FOLDED}
    layer = fc.build(
        {"problem": declare(DATA, FIELDS), "solver": "osqp", "rule": rule, "adjoint": "gmres"}
    )
    compare(layer, batched)


FACTORISATIONS = (
    "cholesky", "cholesky_ex", "lu", "lu_factor", "lu_factor_ex", "qr", "eigh", "eigvalsh",
    "ldl_factor", "solve", "solve_ex", "inv", "inv_ex", "svd", "lstsq",
)  # fmt: skip


class Spy(TorchFunctionMode):
    """Records the shapes that factorisations get, and the largest result of any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.factored: list[tuple[int, ...]] = []
        self.largest = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        short = getattr(func, "__name__", "").removeprefix("linalg_")
        if short in FACTORISATIONS and args and isinstance(args[0], Tensor):
            self.factored.append(tuple(args[0].shape))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


WIDE, MANY = 12, 50


def wide(n_equality: int) -> tuple[dict[str, Tensor], Tensor]:
    data = random_qp(0, WIDE, n_equality=n_equality, bounds=False)
    generator = torch.Generator().manual_seed(0)
    return data, torch.randn(MANY, WIDE, generator=generator, dtype=torch.float64)


def box(data: dict[str, Tensor], q: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    return {**data, "lower": torch.full((WIDE,), -1.0).double()}, q


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("case", ["box, pgd", "affine, pgd", "affine, newton"])
def test_shared_matrices_are_neither_expanded_nor_factored_per_sample(
    case: str, constant: bool
) -> None:
    data, q = wide(3) if "affine" in case else box(*wide(0))
    problem = declare(data, {"q"} if constant else set(data))
    rule = case.split(", ")[1]
    solver = "iterate" if rule == "pgd" else "osqp"
    layer = fc.build({"problem": problem, "solver": solver, "rule": rule, "adjoint": "gmres"})
    values = {"q": q} if constant else {**data, "q": q}
    values = {k: v.clone().requires_grad_() for k, v in values.items()}
    with Spy() as spy:
        x = layer(**values)
    x.sum().backward()
    assert all(len(shape) == 2 for shape in spy.factored), spy.factored
    if case == "affine, pgd":
        assert 1 <= len(spy.factored) <= 3, "once for the solve, once for the fold, no more"
    # A matrix per sample would be MANY·WIDE² numbers, an iterate is MANY·WIDE.
    assert spy.largest < MANY * WIDE * WIDE / 2


def test_the_spy_sees_what_is_expanded() -> None:
    data, q = wide(3)
    P = data["P"].expand(MANY, WIDE, WIDE).contiguous()
    layer = fc.build({"problem": declare(data, {"P", "q"}), **FOLDED})
    with Spy() as spy:
        layer(P=P.requires_grad_(), q=q)
    assert spy.largest >= MANY * WIDE * WIDE
    assert any(len(shape) == 3 for shape in spy.factored)


def test_a_shared_step_size_is_estimated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power iteration on a shared P multiplies one vector, not one per sample."""
    data, q = box(*wide(0))
    rows: set[int] = set()
    original = torch.Tensor.norm

    def recording(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.ndim == 2 and self.shape[-1] == WIDE:
            rows.add(self.shape[0])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "norm", recording)
    layer = fc.build({"problem": declare(data, {"q"}), "solver": "iterate", "rule": "pgd"})
    layer(q=q)
    assert rows == {1}
