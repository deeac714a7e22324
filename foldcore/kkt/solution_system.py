"""The system of a solution: of a bound program, a point, its multipliers and an active set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.products import concatenate, matvec, to_dense
from ..numerics.sparse import Matrix, SparseMatrix
from ..program.program import SmoothProgram
from ..solution import Duals
from .system import KKTSystem

_LARGE = 100
"""Variables from which a sparse factor per sample is quicker than a dense one of the batch."""


@dataclass(frozen=True)
class Held:
    """What holds with equality; boolean masks.

    Attributes:
        rows: Of the inequality rows. Shape (B, m).
        lower, upper: Of the bounds, never both. Shape (B, n).
    """

    rows: Tensor
    lower: Tensor
    upper: Tensor

    def same(self, other: Held) -> bool:
        return all(
            torch.equal(mine, others)
            for mine, others in zip(vars(self).values(), vars(other).values(), strict=True)
        )

    def where(self, mask: Tensor, other: Held) -> Held:
        """Return, per sample of the mask (B,), this or the other."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Held(*(torch.where(mask.unsqueeze(-1), mine, others) for mine, others in pairs))


class SolutionSystem:
    """The Newton equations of the KKT conditions with the active set held, for new multipliers.

    H(x⁺ - x) + ∇f + Cᵀw⁺ + λ⁺ = 0 on all variables, C(x⁺ - x) + c = 0 on equalities and active rows,
    x⁺ = bound on fixed variables; C stacks ∂h/∂x on ∂g/∂x, w is (ν, μ), λ = λ_upper - λ_lower.

    Source: Nocedal and Wright, Numerical Optimization (2006), equation (18.10), active rows alone.

    Args:
        like: One of the same point, whose H and C, on the graph, are used again.
        factors_of: One of equal H and C, perhaps of another graph, whose factors are used again if its
            active set is the same. ``like`` where None.

    Attributes:
        system: The matrix, on the graph.
        right: The right-hand side, on the graph. Shape (B, size).
        held: The active set.
    """

    def __init__(
        self,
        program: SmoothProgram,
        x: Tensor,
        duals: Duals,
        held: Held,
        *,
        like: SolutionSystem | None = None,
        factors_of: SolutionSystem | None = None,
    ) -> None:
        self.program, self.held = program, held
        self._p = program.n_equality
        self.bounded = program.lower is not None or program.upper is not None
        if like is None:
            rows: Matrix
            if _stays_sparse(program):
                hessian, self._diagonal = _sparse_curvature(program, x)
                rows = _stacked(program)
            else:
                hessian, self._diagonal = _curvature(program, x, duals)
                rows = concatenate(
                    [program.equality_jacobian(x), program.inequality_jacobian(x)], -2, 2
                )
        else:
            hessian, self._diagonal = like.system.operator.hessian, like._diagonal
            rows = like.system.operator.rows
        known = like if factors_of is None else factors_of
        everywhere = held.rows.new_ones(held.rows.shape[0], self._p)
        self.system: KKTSystem = KKTSystem(
            hessian,
            rows,
            torch.cat([everywhere, held.rows], -1),
            held.lower | held.upper if self.bounded else None,
            diagonal=self._diagonal,
            all_active=not self.bounded and not program.n_inequality,
            like=None if known is None or not known.held.same(held) else known.system,
        )
        self.right = self._right_hand_side(x)

    def _right_hand_side(self, x: Tensor) -> Tensor:
        """Return (Hx - ∇f, Cx - c, bound), 0 where nothing holds: (-q, b, h, bound) for a QP."""
        program, held = self.program, self.held
        batch = x.shape[0]
        if program.hessian_is_constant:
            data = program.data
            r_x = torch.zeros_like(x) if data.q is None else (-data.q).expand(batch, -1)
            parts = [r_x]
            if data.b is not None:
                parts.append(data.b.expand(batch, -1))
            if data.h is not None:
                parts.append(torch.where(held.rows, data.h, 0.0))
        else:
            rows = torch.where(held.rows, program.inequality(x), 0.0)
            c = torch.cat([program.equality(x), rows], -1)
            r_c = matvec(self.system.operator.rows, x) - c
            r_c = torch.where(self.system.operator.active, r_c, 0.0)
            parts = [self.system.operator.curve(x) - program.gradient(x), r_c]
        if self.bounded:
            values = torch.zeros_like(x)
            if program.lower is not None:
                values = torch.where(held.lower, program.lower, values)
            if program.upper is not None:
                values = torch.where(held.upper, program.upper, values)
            parts.append(values)
        return torch.cat(parts, -1)

    def pack(self, x: Tensor, duals: Duals) -> Tensor:
        """Return the unknowns (B, size) of a point and its multipliers, 0 where nothing holds."""
        parts = [x]
        if self._p:
            parts.append(duals.equality)
        if self.held.rows.shape[-1]:
            parts.append(torch.where(self.held.rows, duals.inequality, 0.0))
        if self.bounded:
            fixed = self.held.lower | self.held.upper
            parts.append(torch.where(fixed, duals.upper - duals.lower, 0.0))
        return torch.cat(parts, -1)

    def pack_cotangent(self, x: Tensor, duals: Duals) -> Tensor:
        """Return the cotangent (B, size) of the unknowns that belongs to one of (x⁺, multipliers)."""
        return self.pack(x, duals)

    def unpack(self, found: Tensor) -> tuple[Tensor, Duals]:
        """Return x⁺ (B, n) and its multipliers."""
        x, w, force = self.system.operator.split(found)
        zero = torch.zeros_like(x)
        lower = upper = zero
        if force is not None:
            lower = torch.where(self.held.lower, -force, zero)
            upper = torch.where(self.held.upper, force, zero)
        return x, Duals(w[:, : self._p], w[:, self._p :], lower, upper)

    def solve(self, x: Tensor, duals: Duals) -> Tensor:
        """Return the unknowns nearest to the given ones that solve the equations. Shape (B, size)."""
        return self.system.solve(self.right, self.pack(x, duals))


def _stays_sparse(program: SmoothProgram) -> bool:
    """Whether a QP is large, and A, G and P are sparse or absent: then nothing is made dense."""
    if not program.hessian_is_constant or program.n < _LARGE:
        return False
    data = program.data
    present = [value for value in (data.P, data.A, data.G) if value is not None]
    return bool(present) and all(isinstance(value, SparseMatrix) for value in present)


def _sparse_curvature(program: SmoothProgram, x: Tensor) -> tuple[Matrix, bool]:
    matrix = program.data.P
    if not isinstance(matrix, SparseMatrix):
        return x.new_zeros(program.n), True
    if matrix.is_diagonal:
        return _diagonal(matrix), True
    return matrix, False


def _stacked(program: SmoothProgram) -> SparseMatrix:
    """Return A above G."""
    A, G = program.data.A, program.data.G
    n = program.n
    blocks = [block for block in (A, G) if isinstance(block, SparseMatrix)]
    offsets = [0, 0 if len(blocks) < 2 else blocks[0].shape[0]]
    if not blocks:
        like = program.like
        none = torch.zeros(0, dtype=torch.long, device=like.device)
        return SparseMatrix(none, none, (0, n), like.new_zeros(0))
    return SparseMatrix(
        torch.cat([b.rows + o for b, o in zip(blocks, offsets, strict=False)]),
        torch.cat([b.cols for b in blocks]),
        (sum(b.shape[0] for b in blocks), n),
        concatenate([b.values for b in blocks], -1, 1),
    )


def _diagonal(matrix: SparseMatrix) -> Tensor:
    values = matrix.values
    empty = values.new_zeros(*values.shape[:-1], matrix.shape[0])
    return empty.index_add(-1, matrix.rows, values)


def _curvature(program: SmoothProgram, x: Tensor, duals: Duals) -> tuple[Matrix, bool]:
    """Return ∇²L, or its diagonal where it is known to be one, and whether it is."""
    if program.hessian_is_constant:
        matrix = program.data.P
        if matrix is None:
            return x.new_zeros(program.n), True
        if isinstance(matrix, SparseMatrix) and matrix.is_diagonal:
            return _diagonal(matrix), True
        # A batch's own P is not looked at: what one sample holds must not choose another's way.
        if isinstance(matrix, Tensor) and matrix.ndim == 2 and not matrix.requires_grad:
            diagonal = matrix.diagonal(dim1=-2, dim2=-1)
            if int(torch.count_nonzero(matrix)) == int(torch.count_nonzero(diagonal)):
                return diagonal, True
        return to_dense(matrix), False
    return program.lagrangian_hessian(x, duals), False
