"""Samples whose H or Schur complement Cholesky cannot factor well: three steps, each for fewer.

1. M = H + CᵀC, on rows and columns of like size. It leaves the solution alone, and is positive definite
   where H is so on the null space of the rows: an LP's vertex, a flat H that the rows hold, a
   nonconvex problem at a minimum.
2. Where its pivots, or those of CM⁻¹Cᵀ, are small, or where a known solution does not come back,
   the eigenvalues of K itself tell the rank: the solution is that of least norm, the null
   vectors say what it leaves open, and the signs are the inertia.

Sources: Golub and Greif, On solving block-structured indefinite linear systems (2003), section 2 (1);
Nocedal and Wright, Numerical Optimization (2006), theorem 16.3 and section 16.2 (inertia); Gould, On
practical conditions for the existence and uniqueness of solutions to the general equality quadratic
programming problem (1985).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics.products import rmatvec
from .direct import eliminate_fixed, gathered_hessian, gathered_rows
from .equilibrate import equilibrate
from .grouping import Group, groups_of
from .operator import Operator

_RANK = 10.0
"""An eigenvalue is zero up to this times N machine epsilons of the largest: twice what LAPACK's syevd
loses on matrices of like rows, and a tenth of the smallest singular value that two rows have that differ
in their twelfth digit."""

_RETURN = 1e-6
"""Relative error up to which a known solution must come back for a factor to be trusted. Refinement
takes it down to rounding from there."""


class CarefulFactors:
    """Factors of the samples of one operator, each at the size of its own active set.

    Attributes:
        nullity: Dimension of K's null space. Shape (B,), int64.
        nonconvex: Whether H has a negative or, beyond what K's null space holds, zero curvature on
            the null space of the active rows. Shape (B,), bool.
        null_vectors: An orthonormal basis of K's null space in the unknowns of the operator, zero
            columns beyond it. Shape (B, size, r), r the largest nullity.
    """

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        free = None if operator.fixed is None else ~operator.fixed
        self._groups = groups_of(free, operator.active)
        self._factors = [_CarefulGroup(operator, group) for group in self._groups]
        like = operator.dense_rows
        self.nullity = torch.zeros(operator.batch, dtype=torch.long, device=like.device)
        self.nonconvex = torch.zeros(operator.batch, dtype=torch.bool, device=like.device)
        for group, factors in zip(self._groups, self._factors, strict=True):
            group.put(self.nullity, factors.nullity)
            group.put(self.nonconvex, factors.nonconvex)
        self.null_vectors = self._null_vectors()

    def solve(self, right: Tensor) -> Tensor:
        """Return the solution of least norm, of all unknowns together. (B, size) -> (B, size)."""
        found = eliminate_fixed(self._operator, right, self._solve_free)
        if not self.null_vectors.shape[-1]:
            return found
        # The factors' own solution is of least norm on the scaled rows: another one for other units.
        part = self.null_vectors.mT @ found.unsqueeze(-1)
        return found - (self.null_vectors @ part).squeeze(-1)

    def _solve_free(self, r_x: Tensor, r_c: Tensor) -> tuple[Tensor, Tensor]:
        x, w = torch.zeros_like(r_x), torch.zeros_like(r_c)
        for group, factors in zip(self._groups, self._factors, strict=True):
            a, b = factors.pack(group.take(r_x), group.take(r_c))
            found = factors.unpack(*factors.solve(a, b), group.take(r_x), group.take(r_c))
            group.put(x, found[0])
            group.put(w, found[1])
        return x, w

    def _null_vectors(self) -> Tensor:
        operator = self._operator
        width = int(self.nullity.max()) if self.nullity.numel() else 0
        basis = operator.dense_rows.new_zeros(operator.batch, operator.size, width)
        if not width:
            return basis
        zero_x = operator.dense_rows.new_zeros(operator.batch, operator.n)
        zero_c = operator.dense_rows.new_zeros(operator.batch, operator.k)
        for j in range(width):
            x, w = zero_x.clone(), zero_c.clone()
            for group, factors in zip(self._groups, self._factors, strict=True):
                found = factors.unpack(*factors.null(j), group.take(zero_x), group.take(zero_c))
                group.put(x, found[0])
                group.put(w, found[1])
            parts = [x, w]
            if operator.fixed is not None:
                force = operator.curve(x) + rmatvec(operator.dense_rows, w)
                parts.append(torch.where(operator.fixed, -force, 0.0))
            basis[:, :, j] = torch.cat(parts, -1)
        # Zero columns come last; QR puts something there that is no null vector.
        orthonormal, _ = torch.linalg.qr(basis)
        held = torch.arange(width, device=basis.device) < self.nullity.unsqueeze(-1)
        return torch.where(held.unsqueeze(-2), orthonormal, 0.0)


class _CarefulGroup:
    def __init__(self, operator: Operator, group: Group) -> None:
        self._group = group
        hessian, rows = compact(operator, group)
        self._f, self._k = hessian.shape[-1], rows.shape[-2]
        matrix = torch.cat(
            [
                torch.cat([hessian, rows.mT], -1),
                torch.cat([rows, rows.new_zeros(*rows.shape[:-1], self._k)], -1),
            ],
            -2,
        )
        corner = matrix.diagonal(dim1=-2, dim2=-1)[:, self._f :]
        if group.rows_there is not None:
            corner.copy_((~group.rows_there).to(matrix.dtype))
        self._d = equilibrate(matrix)
        self._matrix = matrix * self._d.unsqueeze(-1) * self._d.unsqueeze(-2)
        h, c = self._matrix[:, : self._f, : self._f], self._matrix[:, self._f :, : self._f]
        self._c = c
        augmented = h + c.mT @ c
        self._root, info = torch.linalg.cholesky_ex(augmented)
        self._v = torch.linalg.solve_triangular(self._root, c.mT, upper=False).mT
        schur = self._v @ self._v.mT
        if group.rows_there is not None:
            schur.diagonal(dim1=-2, dim2=-1).add_(~group.rows_there)
        self._schur, more = torch.linalg.cholesky_ex(schur)
        batch = matrix.shape[0]
        trusted = (info == 0) & (more == 0)
        self._eigen: tuple[Tensor, Tensor, Tensor] | None = None
        self._slow = ~self._returns(trusted)
        self.nullity = torch.zeros(batch, dtype=torch.long, device=matrix.device)
        self.nonconvex = torch.zeros(batch, dtype=torch.bool, device=matrix.device)
        if bool(self._slow.any()):
            self._decompose()

    def _returns(self, trusted: Tensor) -> Tensor:
        """Return the samples whose factors give back a known solution, (b,) bool."""
        size = self._f + self._k
        generator = torch.Generator().manual_seed(0)
        known = torch.randn(size, generator=generator, dtype=torch.float64).to(self._matrix)
        known = known.expand(self._matrix.shape[0], -1)
        right = torch.bmm(self._matrix, known.unsqueeze(-1)).squeeze(-1)
        found = self._augmented(right)
        error = (found - known).abs().amax(-1)
        limit = max(_RETURN, 100 * torch.finfo(known.dtype).eps ** 0.75)
        back: Tensor = error <= limit * known.abs().amax(-1)
        return trusted & back

    def _decompose(self) -> None:
        slow = torch.nonzero(self._slow).flatten()
        matrix = self._matrix[slow]
        finite = matrix.isfinite().flatten(1).all(-1)
        matrix = torch.where(finite[:, None, None], matrix, 0.0)
        values, vectors = torch.linalg.eigh(matrix)
        size = matrix.shape[-1]
        floor = _RANK * size * torch.finfo(matrix.dtype).eps
        zero = values.abs() <= floor * values.abs().amax(-1, keepdim=True)
        inverse = torch.where(zero, 0.0, 1 / torch.where(zero, 1.0, values))
        self._eigen = (inverse, vectors, zero)
        self.nullity[slow] = torch.where(finite, zero.sum(-1), 0)
        rank = _rank(self._c[slow], floor)
        negative = ((values < 0) & ~zero).sum(-1)
        self.nonconvex[slow] = negative > rank

    def _augmented(self, right: Tensor) -> Tensor:
        a, b = right[:, : self._f], right[:, self._f :]
        a = a + (self._c.mT @ b.unsqueeze(-1)).squeeze(-1)
        t = torch.linalg.solve_triangular(self._root, a.unsqueeze(-1), upper=False)
        w = torch.cholesky_solve(self._v @ t - b.unsqueeze(-1), self._schur)
        if self._group.rows_there is not None:
            # A padded row has the equation "multiplier = right-hand side".
            w = torch.where(self._group.rows_there.unsqueeze(-1), w, b.unsqueeze(-1))
        x = torch.linalg.solve_triangular(self._root.mT, t - self._v.mT @ w, upper=True)
        return torch.cat([x, w], -2).squeeze(-1)

    def solve(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (b, f) and w (b, k') of the compact systems."""
        right = torch.cat([a, b], -1) * self._d
        found = self._augmented(right)
        if self._eigen is not None:
            inverse, vectors, _ = self._eigen
            # One system may serve many right-hand sides: then there is nothing to pick.
            slow = slice(None) if len(self._slow) == 1 else self._slow
            part = vectors.mT @ right[slow].unsqueeze(-1)
            found[slow] = (vectors @ (part * inverse.unsqueeze(-1))).squeeze(-1)
        found = found * self._d
        return found[:, : self._f], found[:, self._f :]

    def null(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the null vector of that index, zero where there are fewer."""
        found = torch.zeros_like(self._d)
        if self._eigen is not None:
            _, vectors, zero = self._eigen
            # The zero eigenvalues first, in their order.
            order = torch.argsort(~zero, dim=-1, stable=True)
            if index < order.shape[-1]:
                chosen = order[:, index]
                picked = vectors.gather(-1, chosen[:, None, None].expand(-1, vectors.shape[1], 1))
                held = zero.gather(-1, chosen[:, None])
                found[self._slow] = picked.squeeze(-1) * held
        found = found * self._d
        return found[:, : self._f], found[:, self._f :]

    def pack(self, r_x: Tensor, r_c: Tensor) -> tuple[Tensor, Tensor]:
        group = self._group
        a = r_x if group.free is None else r_x.gather(-1, group.free)
        b = r_c if group.rows is None else r_c.gather(-1, group.rows)
        a = a if group.free_there is None else a * group.free_there
        return a, b if group.rows_there is None else b * group.rows_there

    def unpack(self, x: Tensor, w: Tensor, r_x: Tensor, r_c: Tensor) -> tuple[Tensor, Tensor]:
        group = self._group
        if group.free is not None:
            x = torch.zeros_like(r_x).scatter(-1, group.free, x)
        if group.rows is not None:
            w = torch.zeros_like(r_c).scatter(-1, group.rows, w)
        return x, w


def compact(operator: Operator, group: Group) -> tuple[Tensor, Tensor]:
    """Return H (b, f, f) and C (b, k', f) of a group, the identity and zeros in the padding."""
    rows = gathered_rows(operator, group)
    if operator.diagonal:
        h = (
            operator.dense_hessian
            if operator.dense_hessian.ndim == 1
            else group.take(operator.dense_hessian)
        )
        h = h.expand(rows.shape[0], -1)
        hessian = torch.diag_embed(h if group.free is None else h.gather(-1, group.free))
    else:
        hessian = gathered_hessian(operator, group).expand(rows.shape[0], -1, -1)
    there = group.free_there
    if there is not None:
        hessian = hessian * (there.unsqueeze(-1) & there.unsqueeze(-2))
        hessian = hessian + torch.diag_embed((~there).to(hessian.dtype))
        rows = rows * there.unsqueeze(-2)
    if group.rows_there is not None:
        rows = rows * group.rows_there.unsqueeze(-1)
    return hessian, rows


def _rank(rows: Tensor, floor: float) -> Tensor:
    if not rows.shape[-2] or not rows.shape[-1]:
        return torch.zeros(rows.shape[0], dtype=torch.long, device=rows.device)
    sizes = torch.linalg.svdvals(torch.nan_to_num(rows))
    rank: Tensor = (sizes > floor * sizes.amax(-1, keepdim=True)).sum(-1)
    return rank
