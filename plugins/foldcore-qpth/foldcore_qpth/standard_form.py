"""Quadratic data as qpth wants them: batched, finite, and with at least one inequality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from foldcore import QuadraticData, SparseMatrix, to_dense


@dataclass(frozen=True)
class StandardForm:
    """minimise ½ xᵀQx + pᵀx  s.t.  Gx <= h,  Ax = b,  x = value where ``fixed``; double precision.

    Invariant: everything is on the graph of the data, expanded to (B, …) by autograd, because
    qpth divides the gradient of what it expands itself by B. Rows of A may depend on each other.

    G stacks the rows of the data's G and the bounds. A row that is infinite for all samples is
    left out. One that is infinite for some, or belongs to a fixed variable, is there a copy of the
    sample's first finite row with a slack of 1 + |limit| more: implied, never active, without
    gradient, and of the size of the data, which no large number in place of infinity would be.
    (A row of zeros will not do: its slack stands still, and qpth divides by the step of a slack.)
    Only a sample without any inequality has rows 0ᵀx <= 1, for qpth needs one; it solves such a
    sample in its first step.

    Attributes:
        Q (B, n, n), p (B, n), G (B, m, n), h (B, m), A (B, k, n), b (B, k).
        fixed: Where lower == upper. Shape (B, n), bool.
        value: ½(lower + upper) where ``fixed``, else 0. Its gradient is split evenly between the
            two: their sum is the derivative by the value of the variable. Shape (B, n).
        empty: Where lower > upper, or a bound is infinite on its wrong side. Shape (B,), bool.
        unknown: Where a limit is NaN. Shape (B,), bool.
        shared_equalities: Whether A is the same for all samples.
        needs_grad: Whether any of the data needs a gradient.
    """

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor
    fixed: Tensor
    value: Tensor
    empty: Tensor
    unknown: Tensor
    shared_equalities: bool
    needs_grad: bool

    @classmethod
    def of(cls, data: QuadraticData, batch: int) -> StandardForm:
        n = data.n
        tensors = [v.values if isinstance(v, SparseMatrix) else v for _, v in data.items()]
        device = tensors[0].device
        zeros = torch.zeros(batch, n, dtype=torch.float64, device=device)
        infinite = torch.full_like(zeros, torch.inf)
        lower = -infinite if data.lower is None else _expand(data.lower, batch, 1)
        upper = infinite if data.upper is None else _expand(data.upper, batch, 1)
        fixed = (lower == upper) & lower.isfinite()
        minus = -torch.eye(n, dtype=torch.float64, device=device).expand(batch, n, n)
        rows = [_Rows(minus, -lower, ~fixed), _Rows(-minus, upper, ~fixed)]
        unknown = lower.isnan().any(-1) | upper.isnan().any(-1)
        if data.G is not None and data.h is not None:
            h = _expand(data.h, batch, 1)
            unknown = unknown | h.isnan().any(-1)
            rows.insert(0, _Rows(_expand(to_dense(data.G), batch, 2), h, h < torch.inf))
        G, h = _stack(rows)
        A, b = zeros.new_zeros(batch, 0, n), zeros.new_zeros(batch, 0)
        if data.A is not None and data.b is not None:
            A, b = _expand(to_dense(data.A), batch, 2), _expand(data.b, batch, 1)
        return cls(
            Q=zeros.new_zeros(batch, n, n)
            if data.P is None
            else _expand(to_dense(data.P), batch, 2),
            p=zeros if data.q is None else _expand(data.q, batch, 1),
            G=G,
            h=h,
            A=A,
            b=b,
            fixed=fixed,
            value=torch.where(fixed, (lower + upper) / 2, zeros),
            empty=((lower > upper) | (lower == torch.inf) | (upper == -torch.inf)).any(-1),
            unknown=unknown,
            shared_equalities=data.A is None or to_dense(data.A).ndim == 2,
            needs_grad=any(t.requires_grad for t in tensors),
        )


def _expand(tensor: Tensor, batch: int, own: int) -> Tensor:
    tensor = tensor.double()
    return tensor.expand(batch, *tensor.shape[tensor.ndim - own :])


class _Rows(NamedTuple):
    G: Tensor
    h: Tensor
    present: Tensor


def _stack(rows: list[_Rows]) -> tuple[Tensor, Tensor]:
    """Stack rows, leave out those that no sample has, replace those that a sample lacks."""
    G, h = torch.cat([r.G for r in rows], 1), torch.cat([r.h for r in rows], 1)
    present = torch.cat([r.present for r in rows], 1) & (h < torch.inf)
    some = present.any(0)
    if not bool(some.any()):
        return torch.zeros_like(G[:, :1]), torch.ones_like(h[:, :1])
    G, h, present = G[:, some], h[:, some], present[:, some]
    every, first = torch.arange(h.shape[0], device=h.device), present.int().argmax(1)
    has_one = present[every, first].unsqueeze(-1)
    copied = torch.where(
        has_one, h[every, first].unsqueeze(-1), torch.zeros_like(h[:, :1])
    ).detach()
    row = torch.where(has_one, G[every, first], torch.zeros_like(G[:, 0])).detach()
    slack = copied + 1 + copied.abs()
    return (
        torch.where(present.unsqueeze(-1), G, row.unsqueeze(1)),
        torch.where(present, h, slack),
    )
