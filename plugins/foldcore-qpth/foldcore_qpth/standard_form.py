"""Quadratic data as qpth wants them: batched, finite, with a row that never binds where one is absent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foldcore import QuadraticData, SparseMatrix, to_dense


@dataclass(frozen=True)
class StandardForm:
    """minimise ½ xᵀQx + pᵀx  s.t.  Gx <= h,  Ax = b,  x = value where ``fixed``; double precision.

    Invariant: everything is on the graph of the data, expanded to (B, …) by autograd, because
    qpth divides the gradient of what it expands itself by B. Rows of A may depend on each other.

    G stacks the rows of the data's G and the bounds. A row that is infinite for all samples is
    left out; one that is infinite for some, or belongs to a fixed variable, reads 0ᵀx <= 1 there.
    That row never binds and touches nothing, so that it needs no large number in place of
    infinity, and its limit gets a gradient of exactly 0. One such row is added where there is
    none, for qpth needs one.

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
        rows = [_masked(minus, -lower, fixed), _masked(-minus, upper, fixed)]
        unknown = lower.isnan().any(-1) | upper.isnan().any(-1)
        if data.G is not None and data.h is not None:
            G = _expand(to_dense(data.G), batch, 2)
            h = _expand(data.h, batch, 1)
            unknown = unknown | h.isnan().any(-1)
            rows.insert(0, _masked(G, h, torch.zeros_like(h, dtype=torch.bool)))
        G, h = torch.cat([g for g, _ in rows], 1), torch.cat([limit for _, limit in rows], 1)
        if G.shape[1] == 0:
            G, h = zeros.unsqueeze(1), torch.ones_like(zeros[:, :1])
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


def _masked(G: Tensor, h: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Neutralise rows that are absent or infinite, and leave out those that all samples lack."""
    present = (h < torch.inf) & ~absent
    some = present.any(0)
    G, h, present = G[:, some], h[:, some], present[:, some]
    return (
        torch.where(present.unsqueeze(-1), G, torch.zeros_like(G)),
        torch.where(present, h, torch.ones_like(h)),
    )
