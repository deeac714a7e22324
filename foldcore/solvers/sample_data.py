"""Quadratic data of a batch as numpy arrays, converted once, and the view of one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..numerics.sparse import Matrix, SparseMatrix
from ..quadratic.data import SAMPLE_DIMS, QuadraticData

Floats = NDArray[np.float64]


_MAY_BE_INFINITE = frozenset({"h", "lower", "upper", "quadratic_r"})


@dataclass(frozen=True)
class SparseArray:
    """A sparse matrix of one sample as numpy arrays; entries of equal position add up."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    shape: tuple[int, int]
    values: Floats

    def to_scipy(self) -> Any:
        """Return a scipy CSC matrix."""
        from scipy.sparse import csc_matrix  # scipy stays out of `import foldcore`

        return csc_matrix((self.values, (self.rows, self.cols)), shape=self.shape)

    def to_dense(self) -> Floats:
        dense = np.zeros(self.shape)
        np.add.at(dense, (self.rows, self.cols), self.values)
        return dense


Array = Floats | SparseArray


@dataclass(frozen=True)
class SampleData:
    """One sample's problem: minimise ½xᵀPx + qᵀx s.t. Ax = b, Gx <= h, bounds, quadratic rows.

    Attributes:
        n: Number of variables.
        fields: Present fields by name, float64; conventions of :class:`QuadraticData`.
        unsound: Names of the fields that hold NaN, or inf where that does not mean absent.
    """

    n: int
    fields: Mapping[str, Array]
    unsound: tuple[str, ...] = ()

    def vector(self, name: str, size: int, missing: float) -> Floats:
        """Return a vector field, or ``missing`` repeated where it is absent."""
        value = self.fields.get(name)
        if value is None:
            return np.full(size, missing)
        return value.to_dense() if isinstance(value, SparseArray) else value

    def dense(self, name: str, rows: int) -> Floats:
        """Return a matrix field as a dense array (rows, n), zeros where absent."""
        value = self.fields.get(name)
        if value is None:
            return np.zeros((rows, self.n))
        return value.to_dense() if isinstance(value, SparseArray) else value

    def sparse(self, name: str, rows: int) -> Any:
        """Return a matrix field as a scipy CSC matrix (rows, n), empty where absent."""
        from scipy.sparse import csc_matrix

        value = self.fields.get(name)
        if value is None:
            return csc_matrix((rows, self.n))
        return value.to_scipy() if isinstance(value, SparseArray) else csc_matrix(value)

    def count(self, name: str) -> int:
        """Return the number of rows of a vector field, 0 where absent."""
        value = self.fields.get(name)
        return 0 if value is None else int(value.shape[0])


class BatchData:
    """A batch's data in numpy: each field shared by all samples or one row per sample."""

    def __init__(
        self,
        data: QuadraticData,
        batch: int,
        *,
        before: BatchData | None = None,
        changed: frozenset[str] = frozenset(),
    ) -> None:
        """Convert the data.

        Args:
            before: An earlier batch of the same structure; its fields are taken over unless they
                are ``changed``.
            changed: Names of fields that may differ from ``before``.
        """
        self.n, self.batch = data.n, batch
        self._shared: dict[str, Array] = {}
        self._rows: dict[str, Floats | Sequence[SparseArray]] = {}
        self._unsound: dict[str, NDArray[np.bool_]] = {}
        for name, value in data.items():
            if before is not None and name in before._shared and name not in changed:
                self._shared[name] = before._shared[name]
                if name in before._unsound:
                    self._unsound[name] = before._unsound[name]
            else:
                self._convert(name, value)

    def _convert(self, name: str, value: Matrix) -> None:
        pattern = value if isinstance(value, SparseMatrix) else None
        array = _numpy(value.values if isinstance(value, SparseMatrix) else value)
        batched = array.ndim > (1 if pattern is not None else SAMPLE_DIMS[name])
        wrong = np.isnan(array) if name in _MAY_BE_INFINITE else ~np.isfinite(array)
        if wrong.any():
            self._unsound[name] = wrong.reshape(self.batch if batched else 1, -1).any(1)
        if pattern is None:
            if batched:
                self._rows[name] = array
            else:
                self._shared[name] = array
            return
        where = pattern.rows.cpu().numpy(), pattern.cols.cpu().numpy(), pattern.shape
        if batched:
            self._rows[name] = [SparseArray(*where, one) for one in array]
        else:
            self._shared[name] = SparseArray(*where, array)

    def without_rows(self) -> BatchData:
        """Return what all samples share, as another batch's ``before``."""
        found = copy(self)
        found._rows = {}
        found._unsound = {k: v for k, v in self._unsound.items() if k in self._shared}
        return found

    @property
    def batched(self) -> frozenset[str]:
        """Names of the fields that differ by sample."""
        return frozenset(self._rows)

    @property
    def names(self) -> frozenset[str]:
        """Names of the fields that are present."""
        return frozenset(self._shared).union(self._rows)

    @property
    def unsound(self) -> bool:
        """Whether a sample holds NaN, or inf where that does not mean absent."""
        return bool(self._unsound)

    def rows(self, name: str) -> Floats | Sequence[SparseArray]:
        """Return a field that differs by sample, one row per sample; read only.

        Raises:
            KeyError: If the field is shared or absent.
        """
        return self._rows[name]

    def sample(self, index: int) -> SampleData:
        """Return one sample's data; shared fields are the same objects for every sample."""
        fields = dict(self._shared)
        for name, rows in self._rows.items():
            fields[name] = rows[index]
        if not self._unsound:
            return SampleData(self.n, fields)
        unsound = (name for name, rows in self._unsound.items() if rows[index % rows.size])
        return SampleData(self.n, fields, tuple(unsound))

    def samples(self) -> Iterator[SampleData]:
        return (self.sample(i) for i in range(self.batch))


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().cpu().double().numpy()
    return array
