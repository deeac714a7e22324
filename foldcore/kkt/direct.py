"""Cholesky of H and of its Schur complement: the way of every regular, convex sample.

With H = LLᵀ on the free variables and V = L⁻¹C_Aᵀ, the multipliers solve VᵀV w = Vᵀt - r_c with
t = L⁻¹r_x, and x = L⁻ᵀ(t - Vw). Both pivots, relative to the diagonals of the matrices they come from, do
not depend on the units of variables, rows and objective, and so need no scaling: a small one sends the
sample to the careful way.

Source: Nocedal and Wright, Numerical Optimization (2006), section 16.2 (Schur-complement method).
This differs from it in that rows and bounds are those of one sample's active set, gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..numerics.products import matvec, rmatvec
from .grouping import Group, groups_of
from .operator import Operator


class GroupFactors:
    """Factors of one group of samples, each with its own H on its own free variables.

    Attributes:
        pivots: Smallest relative pivot per sample, 0 where Cholesky broke down. Shape (b,).
    """

    def __init__(self, operator: Operator, group: Group) -> None:
        self._group = group
        there, rows_there = group.free_there, group.rows_there
        rows = gathered_rows(operator, group)
        if there is not None:
            rows = rows * there.unsqueeze(-2)
        if rows_there is not None:
            rows = rows * rows_there.unsqueeze(-1)
        self._h: Tensor | None = None
        if operator.diagonal:
            self._h, pivots = _diagonal_of(operator, group)
            self._rows = rows
            self._v = rows / self._h.unsqueeze(-2)
            schur = self._v @ rows.mT
        else:
            hessian = gathered_hessian(operator, group)
            if there is not None:
                hessian = hessian * (there.unsqueeze(-1) & there.unsqueeze(-2))
                hessian.diagonal(dim1=-2, dim2=-1).add_(~there)
            self._root, pivots = _cholesky(hessian)
            self._v = torch.linalg.solve_triangular(self._root, rows.mT, upper=False).mT
            schur = self._v @ self._v.mT
        self._schur: Tensor | None = None
        if rows.shape[-2]:
            if rows_there is not None:
                schur.diagonal(dim1=-2, dim2=-1).add_(~rows_there)
            self._schur, more = _cholesky(schur)
            pivots = torch.minimum(pivots, more)
        self.pivots = pivots.expand(rows.shape[0])

    def solve(self, r_x: Tensor, r_c: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (B, n) and w (B, k) of the group's samples, 0 where nothing is held.

        Args:
            r_x, r_c: The group's right-hand sides (b, n) and (b, k), with the fixed variables'
                products taken off.
        """
        group = self._group
        a = r_x if group.free is None else r_x.gather(-1, group.free)
        if group.free_there is not None:
            a = a * group.free_there
        # H⁻¹a where H is diagonal, else L⁻¹a: V is of the same kind.
        t = a / self._h if self._h is not None else self._lower(a)
        w = r_c[:, :0]
        if self._schur is not None:
            b = r_c if group.rows is None else r_c.gather(-1, group.rows)
            if group.rows_there is not None:
                b = b * group.rows_there
            left = self._v if self._h is None else self._rows
            right = torch.baddbmm(b.unsqueeze(-1), left, t.unsqueeze(-1), beta=-1)
            found = torch.cholesky_solve(right, self._schur)
            t = torch.baddbmm(t.unsqueeze(-1), self._v.mT, found, alpha=-1).squeeze(-1)
            w = found.squeeze(-1)
        x = t if self._h is not None else self._upper(t)
        if group.free is None and group.rows is None:
            return x, w
        return _scattered(x, group.free, r_x), _scattered(w, group.rows, r_c)

    def _lower(self, a: Tensor) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(self._root, a.unsqueeze(-1), upper=False)
        return found.squeeze(-1)

    def _upper(self, t: Tensor) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(self._root.mT, t.unsqueeze(-1), upper=True)
        return found.squeeze(-1)


class PerSampleFactors:
    """Factors of a batch, grouped by size. Attributes: ``pivots`` (B,)."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        free = None if operator.fixed is None else ~operator.fixed
        if operator.diagonal:
            # A mask is all that fixed variables ask of a diagonal: nothing is sorted or gathered.
            self._groups = [
                replace(group, free_there=None if free is None else group.take(free))
                for group in groups_of(None, operator.active)
            ]
        else:
            self._groups = groups_of(free, operator.active)
        self._factors = [GroupFactors(operator, group) for group in self._groups]
        if len(self._groups) == 1:
            self.pivots = self._factors[0].pivots
        else:
            self.pivots = operator.dense_rows.new_empty(operator.batch)
            for group, factors in zip(self._groups, self._factors, strict=True):
                group.put(self.pivots, factors.pivots)

    def solve(self, right: Tensor) -> Tensor:
        """Return K⁻¹r. Shapes (B, size) -> (B, size)."""
        alone = len(self._groups) == 1
        solve = self._factors[0].solve if alone else self._solve_free
        return eliminate_fixed(self._operator, right, solve)

    def _solve_free(self, r_x: Tensor, r_c: Tensor) -> tuple[Tensor, Tensor]:
        x, w = torch.empty_like(r_x), torch.empty_like(r_c)
        for group, factors in zip(self._groups, self._factors, strict=True):
            found = factors.solve(group.take(r_x), group.take(r_c))
            group.put(x, found[0])
            group.put(w, found[1])
        return x, w


class SharedFactors:
    """H and C are the batch's: one factor, one Gram matrix CH⁻¹Cᵀ, of which each sample takes its rows.

    The bounds are rows of the identity below C, so that the factor of H serves whatever is fixed.

    Attributes:
        pivots: As of :class:`GroupFactors`. Shape (B,).
    """

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        rows, active = operator.dense_rows, operator.active
        if operator.fixed is not None:
            eye = torch.eye(operator.n, dtype=rows.dtype, device=rows.device)
            rows = torch.cat([rows, eye])
            active = torch.cat([active, operator.fixed], -1)
        self._h: Tensor | None = None
        if operator.diagonal:
            positive = operator.dense_hessian > 0
            self._h = torch.where(positive, operator.dense_hessian, 1.0)
            self._left, self._right = rows, (rows / self._h).mT
            pivots = positive.all().to(rows.dtype)
        else:
            self._root, pivots = _cholesky(operator.dense_hessian)
            self._right = torch.linalg.solve_triangular(self._root, rows.mT, upper=False)
            self._left = self._right.mT
        self.pivots = pivots.expand(operator.batch)
        self._groups: list[tuple[Group, Tensor]] = []
        if not rows.shape[0]:
            return
        gram = self._left @ self._right
        if operator.all_active:
            factor, more = _cholesky(gram)
            self.pivots = torch.minimum(more, pivots).expand(operator.batch)
            self._groups = [(Group(None, None, None, None, None), factor)]
            return
        self.pivots = rows.new_empty(operator.batch)
        for group in groups_of(None, active):
            factor, more = _cholesky(_gathered_gram(gram, group, active))
            self._groups.append((group, factor))
            group.put(self.pivots, torch.minimum(more, pivots))

    def solve(self, right: Tensor) -> Tensor:
        """Return K⁻¹r. Shapes (B, size) -> (B, size)."""
        operator = self._operator
        r_x, r_c, r_b = operator.split(right)
        k = operator.k
        t = r_x / self._h if self._h is not None else self._triangular(r_x, upper=False)
        w = r_c
        if self._groups:
            r_all = r_c if r_b is None else torch.cat([r_c, r_b], -1)
            w = self._multipliers(t @ self._left.mT - r_all)
            t = t - w @ self._right.mT
        x = t if self._h is not None else self._triangular(t, upper=True)
        w_c = w if operator.all_active else torch.where(operator.active, w[:, :k], r_c)
        if operator.fixed is None or r_b is None:
            return torch.cat([x, w_c], -1)
        x = torch.where(operator.fixed, r_b, x)
        return torch.cat([x, w_c, torch.where(operator.fixed, w[:, k:], r_b)], -1)

    def _triangular(self, right: Tensor, *, upper: bool) -> Tensor:
        root = self._root.mT if upper else self._root
        found: Tensor = torch.linalg.solve_triangular(root, right.mT, upper=upper)
        return found.mT

    def _multipliers(self, side: Tensor) -> Tensor:
        """Solve the Schur systems, 0 where a row is not active. Shapes (B, k) -> (B, k)."""
        if self._operator.all_active:
            return torch.cholesky_solve(side.mT, self._groups[0][1]).mT
        w = torch.zeros_like(side)
        for group, factor in self._groups:
            part = group.take(side)
            part = part if group.rows is None else part.gather(-1, group.rows)
            if group.rows_there is not None:
                part = part * group.rows_there
            found = torch.cholesky_solve(part.unsqueeze(-1), factor).squeeze(-1)
            group.put(w, _scattered(found, group.rows, group.take(w)))
        return w


def _gathered_gram(gram: Tensor, group: Group, active: Tensor) -> Tensor:
    """Return the Gram matrix of each sample's rows, the identity in the padding. (b, k', k')."""
    where, there = group.rows, group.rows_there
    if where is None:
        schur = gram.expand(group.take(active).shape[0], -1, -1)
    else:
        schur = gram[where.unsqueeze(-1), where.unsqueeze(-2)]
    if there is not None:
        schur = schur * (there.unsqueeze(-1) & there.unsqueeze(-2))
        schur.diagonal(dim1=-2, dim2=-1).add_(~there)
    return schur


def eliminate_fixed(
    operator: Operator,
    right: Tensor,
    solve: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Return K⁻¹r by a solve for the free variables and active rows alone."""
    r_x, r_c, r_b = operator.split(right)
    fixed, k = operator.fixed, operator.k
    if fixed is None or r_b is None:
        x, w = solve(r_x, r_c)
        if not k:
            return x
        return torch.cat(
            [x, w if operator.all_active else torch.where(operator.active, w, r_c)], -1
        )
    pinned = torch.where(fixed, r_b, 0.0)
    a = torch.where(fixed, 0.0, r_x - operator.curve(pinned))
    b = r_c - matvec(operator.dense_rows, pinned) if k else r_c
    x, w = solve(a, b)
    x = torch.where(fixed, pinned, x)
    force = r_x - operator.curve(x)
    if k:
        w = torch.where(operator.active, w, 0.0)
        force = force - rmatvec(operator.dense_rows, w)
        w = torch.where(operator.active, w, r_c)
    return torch.cat([x, w, torch.where(fixed, force, r_b)], -1)


def _cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return L, and the smallest pivot relative to the diagonal: 0 where there is no factor."""
    root, info = torch.linalg.cholesky_ex(matrix)
    if not matrix.shape[-1]:
        return root, matrix.new_ones(matrix.shape[:-2])
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    pivots = (root.diagonal(dim1=-2, dim2=-1).square() / diagonal).amin(-1)
    # NaN data fail every comparison.
    return root, torch.where((info == 0) & (pivots > 0), pivots, 0.0)


def gathered_hessian(operator: Operator, group: Group) -> Tensor:
    """Return H on the group's free variables, (b, f, f) of its own memory, or (f, f)."""
    hessian, where = operator.dense_hessian, group.free
    if hessian.ndim == 2:
        if where is None:
            count = 1 if group.free_there is None else group.free_there.shape[0]
            return hessian.expand(count, -1, -1)
        return hessian[where.unsqueeze(-1), where.unsqueeze(-2)]
    if where is None:
        return group.take(hessian)
    samples = _samples(operator, group)
    return hessian[samples[:, None, None], where.unsqueeze(-1), where.unsqueeze(-2)]


def gathered_rows(operator: Operator, group: Group) -> Tensor:
    """Return C on the group's rows and free variables. Shape (b, k', f)."""
    rows, free, which = operator.dense_rows, group.free, group.rows
    if rows.ndim == 2:
        if which is None and free is None:
            count = operator.batch if group.samples is None else group.samples.numel()
            return rows.expand(count, -1, -1)
        if free is None:
            return rows[which]
        if which is None:
            return rows.mT[free].mT
        return rows[which.unsqueeze(-1), free.unsqueeze(-2)]
    if which is None and free is None:
        return group.take(rows)
    samples = _samples(operator, group)
    if free is None:
        return rows[samples[:, None], which]
    if which is None:
        return rows.mT[samples[:, None], free].mT
    return rows[samples[:, None, None], which.unsqueeze(-1), free.unsqueeze(-2)]


def _diagonal_of(operator: Operator, group: Group) -> tuple[Tensor, Tensor]:
    """Return h on the free variables, 1 for padding, (b, f) or (1, f); and 1 or 0 for all h > 0."""
    h = operator.dense_hessian
    if h.ndim == 2:
        h = group.take(h)
    if group.free is not None:
        h = h[group.free] if h.ndim == 1 else h.gather(-1, group.free)
    if h.ndim == 1:
        h = h.unsqueeze(0)
    if group.free_there is not None:
        h = torch.where(group.free_there, h, 1.0)
    positive = h > 0
    return torch.where(positive, h, 1.0), positive.all(-1).to(h.dtype)


def _samples(operator: Operator, group: Group) -> Tensor:
    if group.samples is not None:
        return group.samples
    return torch.arange(operator.batch, device=operator.dense_rows.device)


def _scattered(part: Tensor, where: Tensor | None, like: Tensor) -> Tensor:
    """Return the held entries at their places, 0 elsewhere; padding holds zeros."""
    if where is None:
        return part
    return torch.zeros_like(like).scatter(-1, where, part)
