"""A sparse matrix whose pattern is fixed once and whose values come from several data fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from torch import Tensor

from foldcore import SparseMatrix

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Where the entries of one field go.

    Attributes:
        field: Name of the data field; empty for a constant block of ones.
        rows, cols: Target of each entry. Shape (k,).
        source: Position of each entry among the field's flattened values. Shape (k,).
        size: Length of the flattened values.
    """

    field: str
    rows: Integers
    cols: Integers
    source: Integers
    size: int


def block_of(field: str, matrix: Tensor | SparseMatrix, varying: bool) -> Block:
    """Return the block of a matrix in its own coordinates.

    A dense matrix that varies occupies every position: a zero of today may be a number tomorrow,
    and a native model refuses new positions. One that is constant occupies its nonzeros.
    """
    width = int(matrix.shape[-1])
    if isinstance(matrix, SparseMatrix):
        rows, cols = matrix.rows.cpu().numpy(), matrix.cols.cpu().numpy()
        return Block(field, rows, cols, np.arange(rows.size), rows.size)
    size = int(matrix.shape[-2]) * width
    source = np.arange(size)
    if not varying:
        source = np.flatnonzero(matrix.detach().cpu().numpy())
    return Block(field, source // width, source % width, source, size)


def flat_values(matrix: Tensor | SparseMatrix) -> Floats:
    """Return (k,) where shared by the batch, else (B, k), in double precision."""
    values = matrix.values if isinstance(matrix, SparseMatrix) else matrix
    lead = values.shape[:-1] if isinstance(matrix, SparseMatrix) else values.shape[:-2]
    flat: Floats = values.detach().cpu().double().numpy().reshape(*lead, -1)
    return flat


@dataclass(frozen=True)
class Filled:
    """Values on a pattern for a whole batch: a shared part, and parts that differ by sample."""

    shared: Floats
    batched: tuple[tuple[Any, Floats], ...]

    def row(self, sample: int) -> Floats:
        """Return the values of one sample in the pattern's order. Shape (slots,)."""
        values = self.shared
        for gather, flat in self.batched:
            values = values + gather @ flat[sample]
        return values


class Pattern:
    """A CSC pattern stacked from blocks; entries of equal position add up."""

    def __init__(self, shape: tuple[int, int], blocks: Sequence[Block]) -> None:
        """Args: blocks: In the coordinates of the whole matrix."""
        empty = np.zeros(0, dtype=np.int64)
        rows = np.concatenate([empty, *(b.rows for b in blocks)])
        cols = np.concatenate([empty, *(b.cols for b in blocks)])
        taken, slots = np.unique(cols * shape[0] + rows, return_inverse=True)
        self.shape = shape
        self._indices = taken % max(shape[0], 1)
        counts = np.bincount(taken // max(shape[0], 1), minlength=shape[1])
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._constant = np.zeros(taken.size)
        self._gather: dict[str, Any] = {}
        start = 0
        for block in blocks:
            own = slots[start : start + block.rows.size]
            start += block.rows.size
            if block.field:
                ones = np.ones(own.size)
                gather = scipy.sparse.csr_matrix(
                    (ones, (own, block.source)), shape=(taken.size, block.size)
                )
                self._gather[block.field] = gather
            else:
                self._constant[own] += 1.0

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(self._gather)

    def fill(self, values: Mapping[str, Floats]) -> Filled:
        """Distribute flattened values, one entry for each of ``fields``."""
        shared, batched = self._constant, []
        for field, gather in self._gather.items():
            flat = values[field]
            if flat.ndim == 1:
                shared = shared + gather @ flat
            else:
                batched.append((gather, flat))
        return Filled(shared, tuple(batched))

    def matrix(self, values: Floats) -> Any:
        """Return a scipy CSC matrix; zeros among the values stay explicit."""
        return scipy.sparse.csc_matrix((values, self._indices, self._starts), shape=self.shape)


def row_of(values: Floats, sample: int) -> Floats:
    """Return a sample's row of values that are shared (k,) or one row per sample (B, k)."""
    return values if values.ndim == 1 else np.ascontiguousarray(values[sample])
