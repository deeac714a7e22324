"""The linear system of a solution on the graph of its data, differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .factors import Factors
from .operator import Operator


class KKTSystem:
    """Ky = r, K as of :class:`Operator`; factored at the first solve, and never again.

    Args:
        hessian, rows: H and C; they may carry gradients.
        active, fixed, diagonal, all_active: As of :class:`Operator`.
        like: A system with the same values, whose factors serve this one, too.
    """

    def __init__(
        self,
        hessian: Tensor,
        rows: Tensor,
        active: Tensor,
        fixed: Tensor | None = None,
        *,
        diagonal: bool = False,
        all_active: bool = False,
        like: KKTSystem | None = None,
    ) -> None:
        self.operator = Operator(hessian, rows, active, fixed, diagonal, all_active)
        self._box: _Box = _Box(diagonal, all_active) if like is None else like._box

    @property
    def factors(self) -> Factors:
        """The factors, made now if no solve has made them yet."""
        operator = self.operator
        return self._box.factors(operator.hessian, operator.rows, operator.active, operator.fixed)

    def factor(self) -> None:
        """Make the factors now, for a system that is kept."""
        operator = self.operator
        self._box.factors(operator.hessian, operator.rows, operator.active, operator.fixed)

    def solve(self, right: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the solution of Ky = r nearest to ``start``, as a function of r, H, C and ``start``.

        Its backward pass is one more solve with the same factors and closed-form products, for
        those tensors that need a gradient alone; no graph leads through a factorisation.

        Source: dy = K⁺(dr - dK y), the implicit function theorem on Ky = r.

        Args:
            right: Shape (B, size).
            start: Shape (B, size); 0 where None.

        Returns:
            y. Shape (B, size). Where the system is inconsistent, its least-squares solution:
            :meth:`residual` tells.
        """
        operator = self.operator
        return cast(
            Tensor,
            _Solve.apply(  # type: ignore[no-untyped-call]
                self._box, right, start, operator.hessian, operator.rows,
                operator.active, operator.fixed,
            ),
        )  # fmt: skip

    def residual(self, right: Tensor, found: Tensor) -> Tensor:
        """Return ‖r - Ky‖∞ relative to the terms that must cancel, of K itself. Shape (B,)."""
        with torch.no_grad():
            gap = (right - self.operator.product(found)).abs().amax(-1)
            size = right.abs().amax(-1).maximum(self.operator.magnitude(found))
            return gap / size.clamp_min(torch.finfo(gap.dtype).tiny)


class _Box:
    """Factors that are made where the tensors are bare: under torch.func they are not before."""

    def __init__(self, diagonal: bool, all_active: bool) -> None:
        self._kind = (diagonal, all_active)
        self._factors: Factors | None = None

    def operator(
        self, hessian: Tensor, rows: Tensor, active: Tensor, fixed: Tensor | None
    ) -> Operator:
        return Operator(hessian, rows, active, fixed, *self._kind)

    def factors(
        self, hessian: Tensor, rows: Tensor, active: Tensor, fixed: Tensor | None
    ) -> Factors:
        if self._factors is None:
            with torch.no_grad():
                bare = self.operator(hessian.detach(), rows.detach(), active, fixed)
                self._factors = Factors(bare)
        return self._factors

    def empty(self) -> _Box:
        """Return one of the same kind that holds no factors yet."""
        return _Box(*self._kind)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        box: _Box,
        right: Tensor,
        start: Tensor | None,
        hessian: Tensor,
        rows: Tensor,
        active: Tensor,
        fixed: Tensor | None,
    ) -> Tensor:
        factors = box.factors(hessian, rows, active, fixed)
        found = factors.solve(right)
        if start is None or not factors.singular:
            return found
        near = start + factors.solve(right - factors.operator.product(start))
        return torch.where((factors.nullity > 0).unsqueeze(-1), near, found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        box, _, _, hessian, rows, active, fixed = inputs
        ctx.box = box
        ctx.save_for_backward(output, hessian, rows, active, fixed)
        ctx.save_for_forward(output, hessian, rows, active, fixed)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        found, hessian, rows, active, fixed = ctx.saved_tensors
        _, wants_right, wants_start, wants_hessian, wants_rows, _, _ = ctx.needs_input_grad
        operator = ctx.box.operator(hessian, rows, active, fixed)
        pulled = _Solve.apply(ctx.box, cotangent, None, hessian, rows, active, fixed)  # type: ignore[no-untyped-call]
        d_start = d_hessian = d_rows = None
        if wants_start:
            d_start = _kept(
                ctx.box.factors(hessian, rows, active, fixed), operator, cotangent, pulled
            )
        y_x, y_w, _ = operator.split(found)
        v_x, v_w, _ = operator.split(pulled)
        if wants_hessian:
            d_hessian = _curvature_gradient(operator, v_x, y_x)
        if wants_rows:
            y_w = torch.where(active, y_w, 0.0)
            v_w = torch.where(active, v_w, 0.0)
            d_rows = _rows_gradient(operator, v_x, v_w, y_x, y_w)
        d_right = pulled if wants_right else None
        return None, d_right, d_start, d_hessian, d_rows, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        found, hessian, rows, active, fixed = ctx.saved_tensors
        _, d_right, d_start, d_hessian, d_rows, _, _ = tangents
        box = ctx.box
        operator = box.operator(hessian, rows, active, fixed)
        right = torch.zeros_like(found) if d_right is None else d_right
        if d_hessian is not None or d_rows is not None:
            moved = box.operator(
                torch.zeros_like(hessian) if d_hessian is None else d_hessian,
                torch.zeros_like(rows) if d_rows is None else d_rows,
                active,
                fixed,
            )
            x, w, bound = operator.split(found)
            # The identity equations of K do not move with its data.
            held = [x, torch.where(active, w, 0.0)]
            held += [] if bound is None else [torch.zeros_like(bound)]
            top, rest, _ = operator.split(moved.product(torch.cat(held, -1)))
            parts = [top, torch.where(active, rest, 0.0)]
            parts += [] if bound is None else [torch.zeros_like(bound)]
            right = right - torch.cat(parts, -1)
        moved_by: Tensor = _Solve.apply(box, right, None, hessian, rows, active, fixed)  # type: ignore[no-untyped-call]
        factors = box.factors(hessian, rows, active, fixed)
        if d_start is None or not factors.singular:
            return moved_by
        # (I - K⁺K) is symmetric, and so its own transpose.
        seen = _Solve.apply(box, operator.product(d_start), None, hessian, rows, active, fixed)  # type: ignore[no-untyped-call]
        kept: Tensor = d_start - seen
        return moved_by + kept

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *inputs: Any) -> tuple[Tensor, int]:
        """Solve for each slice in turn, all with the same factors where K is the same."""
        box = inputs[0]
        same = all(dim is None for dim in in_dims[3:])
        found = []
        for i in range(info.batch_size):
            one = [
                value if dim is None else value.select(dim, i)
                for value, dim in zip(inputs[1:], in_dims[1:], strict=True)
            ]
            found.append(_Solve.apply(box if same else box.empty(), *one))  # type: ignore[no-untyped-call]
        return torch.stack(found), 0


def _kept(factors: Factors, operator: Operator, cotangent: Tensor, pulled: Tensor) -> Tensor:
    """Return (I - KK⁺)v: what of the starting point the solution keeps. 0 for regular samples."""
    if not factors.singular:
        return torch.zeros_like(cotangent)
    kept = cotangent - operator.product(pulled)
    return torch.where((factors.nullity > 0).unsqueeze(-1), kept, 0.0)


def _curvature_gradient(operator: Operator, v: Tensor, y: Tensor) -> Tensor:
    if operator.diagonal:
        product = v * y
        return -(product.sum(0) if operator.hessian.ndim == 1 else product)
    if operator.hessian.ndim == 2:
        return -(v.mT @ y)
    return v.unsqueeze(-1) * -y.unsqueeze(-2)


def _rows_gradient(
    operator: Operator, v_x: Tensor, v_w: Tensor, y_x: Tensor, y_w: Tensor
) -> Tensor:
    if operator.rows.ndim == 2:
        return -(torch.cat([v_w, y_w]).mT @ torch.cat([y_x, v_x]))
    # One product of two-column factors instead of two outer products and their sum.
    return torch.bmm(torch.stack([v_w, y_w], -1), torch.stack([-y_x, -v_x], -2))
