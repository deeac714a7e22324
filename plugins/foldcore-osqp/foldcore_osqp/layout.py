"""How quadratic data become OSQP's P, q, C, l, u, and how its multipliers become Duals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foldcore import Duals, QuadraticData

from .pattern import Block, Filled, Floats, Integers, Pattern, block_of, row_of

INFINITY = 1e30
"""What OSQP takes for infinite."""

ANCHOR_SLOPE = 1e-12
"""Slope of the anchor: far below any tolerance, so that it does not loosen relative ones."""


@dataclass(frozen=True)
class Sample:
    """The data of one sample as OSQP takes them, and where it starts; shared arrays are not copied.

    Attributes:
        P, C: Values on the layout's patterns.
        q, l, u: Vectors.
        x, y: Where to start from.
    """

    P: Floats
    C: Floats
    q: Floats
    l: Floats  # noqa: E741
    u: Floats
    x: Floats
    y: Floats


@dataclass(frozen=True)
class Batch:
    """The data of one call, ready for the native model; each shared or one row per sample."""

    P: Filled
    C: Filled
    q: Floats
    l: Floats  # noqa: E741
    u: Floats

    @property
    def matrices_differ(self) -> bool:
        return bool(self.P.batched or self.C.batched)

    def sample(self, index: int, start: tuple[Floats, Floats]) -> Sample:
        """Return one sample. ``start`` is OSQP's x and y, each shared or one row per sample."""
        vectors = (row_of(v, index) for v in (self.q, self.l, self.u, *start))
        return Sample(self.P.row(index), self.C.row(index), *vectors)


class Layout:
    """minimise ½ xᵀPx + qᵀx  s.t.  l <= Cx <= u  with C = [A; G; I], one pattern for all calls.

    Rows of G with a constant +inf in h, and variables without a bound that is or may become
    finite, have no row. With ``anchor``, one more variable t is added, minimise ½t² - εt with
    t <= 0, which touches nothing else: OSQP prints a line for every polished solution without an
    active constraint whatever ``verbose`` says (osqp issue 785), and the anchor is always active.
    """

    def __init__(self, data: QuadraticData, varying: frozenset[str], *, anchor: bool) -> None:
        """Args: varying: Fields whose values may change; the others are constants."""
        self.varying = varying
        self.n = data.n
        self.n_inequality = data.n_linear
        self._anchor = int(anchor)
        self.kept = self._kept_rows(data)
        self.bounded = self._bounded_columns(data)
        self.n_equality = data.n_equality
        columns = self.n + self._anchor
        self.n_rows = self.n_equality + self.kept.size + self.bounded.size + self._anchor
        self.P = Pattern((columns, columns), self._hessian_blocks(data))
        self.C = Pattern((self.n_rows, columns), self._constraint_blocks(data))

    def _constant(self, data: QuadraticData, field: str) -> Floats | None:
        value = getattr(data, field)
        if field in self.varying or value is None:
            return None
        return _numpy(value)

    def _kept_rows(self, data: QuadraticData) -> Integers:
        limit = self._constant(data, "h")
        return np.arange(data.n_linear) if limit is None else np.flatnonzero(limit < INFINITY)

    def _bounded_columns(self, data: QuadraticData) -> Integers:
        bounded = np.zeros(self.n, dtype=bool)
        for field, value in (("lower", data.lower), ("upper", data.upper)):
            limit = self._constant(data, field)
            if limit is not None:
                bounded |= np.abs(limit) < INFINITY
            elif value is not None:
                bounded[:] = True
        return np.flatnonzero(bounded)

    def _hessian_blocks(self, data: QuadraticData) -> list[Block]:
        blocks = []
        if data.P is not None:
            block = block_of("P", data.P, "P" in self.varying)
            upper = block.rows <= block.cols
            blocks.append(
                replace(
                    block,
                    rows=block.rows[upper],
                    cols=block.cols[upper],
                    source=block.source[upper],
                )
            )
        if self._anchor:
            blocks.append(_identity(np.array([self.n]), np.array([self.n])))
        return blocks

    def _constraint_blocks(self, data: QuadraticData) -> list[Block]:
        blocks = []
        if data.A is not None:
            blocks.append(block_of("A", data.A, "A" in self.varying))
        if data.G is not None:
            block = block_of("G", data.G, "G" in self.varying)
            target = np.full(self.n_inequality, -1)
            target[self.kept] = self.n_equality + np.arange(self.kept.size)
            rows = target[block.rows]
            used = rows >= 0
            blocks.append(
                replace(block, rows=rows[used], cols=block.cols[used], source=block.source[used])
            )
        columns = np.concatenate([self.bounded, np.full(self._anchor, self.n)])
        first = self.n_equality + self.kept.size
        blocks.append(_identity(first + np.arange(columns.size), columns))
        return blocks

    def batch(self, data: QuadraticData, matrices: Mapping[str, Floats]) -> Batch:
        """Assemble a call's data. ``matrices`` holds the flattened values of P, A and G."""
        q = np.zeros(self.n) if data.q is None else _numpy(data.q)
        equal = _rows(data.b, np.arange(self.n_equality), 0.0)
        limit = _rows(data.h, self.kept, np.inf)
        lower = _rows(data.lower, self.bounded, -np.inf)
        upper = _rows(data.upper, self.bounded, np.inf)
        slope, below, above = np.zeros(0), np.zeros(0), np.zeros(0)
        if self._anchor:
            slope, below, above = np.array([-ANCHOR_SLOPE]), np.array([-np.inf]), np.zeros(1)
        l_rows = _stack(equal, np.full(self.kept.size, -np.inf), lower, below)
        u_rows = _stack(equal, limit, upper, above)
        return Batch(
            P=self.P.fill(matrices),
            C=self.C.fill(matrices),
            q=_stack(q, slope),
            l=np.maximum(l_rows, -INFINITY),
            u=np.minimum(u_rows, INFINITY),
        )

    def start(self, primal: Tensor, duals: Duals | None) -> tuple[Floats, Floats]:
        """Return OSQP's x (B, columns) and y (B, rows) of an earlier solution."""
        x = _numpy(primal)
        zeros = np.zeros((x.shape[0], self._anchor))
        if duals is None:
            return np.concatenate([x, zeros], 1), np.zeros((x.shape[0], self.n_rows))
        bounds = _numpy(duals.upper - duals.lower)[:, self.bounded]
        rows = [_numpy(duals.equality), _numpy(duals.inequality)[:, self.kept], bounds, zeros]
        return np.concatenate([x, zeros], 1), np.concatenate(rows, 1)

    def duals(self, y: Floats, batch: Batch, like: Tensor) -> Duals:
        """Translate OSQP's y (B, rows), positive at u and negative at l, to foldcore's signs.

        Args:
            like: Any tensor of the dtype and device of the result.
        """
        start = self.n_equality + self.kept.size
        end = start + self.bounded.size
        above = np.where(batch.u < INFINITY, np.maximum(y, 0.0), 0.0)
        below = np.where(batch.l > -INFINITY, np.maximum(-y, 0.0), 0.0)
        inequality = np.zeros((y.shape[0], self.n_inequality))
        lower, upper = np.zeros((2, y.shape[0], self.n))
        inequality[:, self.kept] = above[:, self.n_equality : start]
        lower[:, self.bounded] = below[:, start:end]
        upper[:, self.bounded] = above[:, start:end]
        parts = (y[:, : self.n_equality], inequality, lower, upper)
        return Duals(*(torch.tensor(part).to(like) for part in parts))


def _identity(rows: Integers, cols: Integers) -> Block:
    return Block("", rows, cols, np.zeros(0, dtype=np.int64), 0)


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().cpu().double().numpy()
    return array


def _rows(tensor: Tensor | None, chosen: Integers, missing: float) -> Floats:
    if tensor is None:
        return np.full(chosen.size, missing)
    chosen_rows: Floats = _numpy(tensor)[..., chosen]
    return chosen_rows


def _stack(*parts: Floats) -> Floats:
    batch = max((part.shape[0] for part in parts if part.ndim == 2), default=None)
    if batch is None:
        return np.concatenate(parts)
    return np.concatenate([np.broadcast_to(p, (batch, p.shape[-1])) for p in parts], axis=1)
