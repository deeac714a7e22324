"""The linear system of a solution on the graph of its data, differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..numerics.sparse import Matrix, SparseMatrix
from .factors import Factors
from .operator import Operator
from .sparse import SparseFactors


class KKTSystem:
    """Ky = r, K as of :class:`Operator`; factored at the first solve, and never again.

    Args:
        hessian, rows: H and C; they may carry gradients.
        active, fixed, diagonal, all_active: As of :class:`Operator`.
        like: A system with the same values, whose factors serve this one, too.
    """

    def __init__(
        self,
        hessian: Matrix,
        rows: Matrix,
        active: Tensor,
        fixed: Tensor | None = None,
        *,
        diagonal: bool = False,
        all_active: bool = False,
        like: KKTSystem | None = None,
    ) -> None:
        self.operator = Operator(hessian, rows, active, fixed, diagonal, all_active)
        self._tensors = _tensors(self.operator)
        self._box: _Box = _Box(self.operator) if like is None else like._box

    @property
    def factors(self) -> Factors | SparseFactors:
        """The factors, made now if no solve has made them yet."""
        return self._box.factors(*self._tensors)

    def factor(self) -> None:
        """Make the factors now, for a system that is kept."""
        self._box.factors(*self._tensors)

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
        inputs = (self._box, right, start, *self._tensors)
        return cast(Tensor, _Solve.apply(*inputs))  # type: ignore[no-untyped-call]

    def residual(self, right: Tensor, found: Tensor) -> Tensor:
        """Return ‖r - Ky‖∞ relative to the terms that must cancel, of K itself. Shape (B,)."""
        with torch.no_grad():
            gap = (right - self.operator.product(found)).abs().amax(-1)
            size = right.abs().amax(-1).maximum(self.operator.magnitude(found))
            return gap / size.clamp_min(torch.finfo(gap.dtype).tiny)


def _tensors(operator: Operator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the tensors of an operator, the values of what is sparse."""
    hessian, rows = operator.hessian, operator.rows
    return (
        hessian.values if isinstance(hessian, SparseMatrix) else hessian,
        rows.values if isinstance(rows, SparseMatrix) else rows,
        operator.active,
        operator.fixed,
    )


class _Box:
    """Factors that are made where the tensors are bare: under torch.func they are not before."""

    def __init__(self, like: Operator) -> None:
        self._kind = (like.diagonal, like.all_active)
        self._patterns = (_pattern(like.hessian), _pattern(like.rows)) if like.sparse else None
        self._factors: Factors | SparseFactors | None = None

    def operator(
        self, hessian: Tensor, rows: Tensor, active: Tensor, fixed: Tensor | None
    ) -> Operator:
        """Return K of these tensors, on the patterns of what is sparse."""
        if self._patterns is None:
            return Operator(hessian, rows, active, fixed, *self._kind)
        h, c = (
            values if pattern is None else SparseMatrix(*pattern, values)
            for pattern, values in zip(self._patterns, (hessian, rows), strict=True)
        )
        return Operator(h, c, active, fixed, *self._kind)

    def factors(
        self, hessian: Tensor, rows: Tensor, active: Tensor, fixed: Tensor | None
    ) -> Factors | SparseFactors:
        """Return the factors, made now if they are not yet."""
        if self._factors is None or self._factors.operator.batch != active.shape[0]:
            with torch.no_grad():
                bare = self.operator(hessian.detach(), rows.detach(), active, fixed)
                if self._factors is not None:
                    return self._factors.resized(bare)
                self._factors = SparseFactors(bare) if bare.sparse else Factors(bare)
        return self._factors

    def empty(self) -> _Box:
        """Return one of the same kind that holds no factors yet."""
        box = _Box.__new__(_Box)
        box._kind, box._patterns, box._factors = self._kind, self._patterns, None
        return box


def _pattern(matrix: Matrix) -> tuple[Tensor, Tensor, tuple[int, int]] | None:
    if isinstance(matrix, SparseMatrix):
        return matrix.rows, matrix.cols, matrix.shape
    return None


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


def _kept(
    factors: Factors | SparseFactors, operator: Operator, cotangent: Tensor, pulled: Tensor
) -> Tensor:
    """Return (I - KK⁺)v: what of the starting point the solution keeps. 0 for regular samples."""
    if not factors.singular:
        return torch.zeros_like(cotangent)
    kept = cotangent - operator.product(pulled)
    return torch.where((factors.nullity > 0).unsqueeze(-1), kept, 0.0)


def _curvature_gradient(operator: Operator, v: Tensor, y: Tensor) -> Tensor:
    hessian = operator.hessian
    if isinstance(hessian, SparseMatrix):
        product = -(v[:, hessian.rows] * y[:, hessian.cols])
        return product if hessian.batched else product.sum(0)
    if operator.diagonal:
        product = v * y
        return -(product.sum(0) if hessian.ndim == 1 else product)
    if hessian.ndim == 2:
        return -(v.mT @ y)
    return v.unsqueeze(-1) * -y.unsqueeze(-2)


def _rows_gradient(
    operator: Operator, v_x: Tensor, v_w: Tensor, y_x: Tensor, y_w: Tensor
) -> Tensor:
    rows = operator.rows
    if isinstance(rows, SparseMatrix):
        product = v_w[:, rows.rows] * y_x[:, rows.cols] + y_w[:, rows.rows] * v_x[:, rows.cols]
        return -product if rows.batched else -product.sum(0)
    if rows.ndim == 2:
        return -(torch.cat([v_w, y_w]).mT @ torch.cat([y_x, v_x]))
    # One product of two-column factors instead of two outer products and their sum.
    return torch.bmm(torch.stack([v_w, y_w], -1), torch.stack([-y_x, -v_x], -2))
