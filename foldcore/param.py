"""Param: a named input of a problem, passed at each call or learned by the layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ProblemError


@dataclass(frozen=True, init=False, eq=False)
class Param:
    """A parameter of a problem: ``Param(3, 4)`` has shape (3, 4), ``Param()`` is a scalar.

    At a call its value has the declared shape (shared by the batch) or a leading batch dimension.

    Args:
        shape: Sizes of one sample's value.
        init: Initial value of a learnable parameter. The layer then owns it as an
            ``nn.Parameter`` and it is not passed at calls. Shape ``shape``.
        psd: Declares a matrix symmetric positive semidefinite, so that it need not be checked.
        name: Name at calls. Default: the field or key under which the Param is used.

    Raises:
        ProblemError: If ``init`` does not have the declared shape.
    """

    shape: tuple[int, ...]
    init: Tensor | None
    psd: bool
    name: str | None

    def __init__(
        self,
        *shape: int | tuple[int, ...],
        init: Tensor | None = None,
        psd: bool = False,
        name: str | None = None,
    ) -> None:
        sizes: list[int] = []
        for size in shape:
            sizes.extend(size if isinstance(size, tuple) else (size,))
        if any(not isinstance(size, int) or size < 0 for size in sizes):
            raise ProblemError(f"Param: sizes must be integers >= 0, got {tuple(sizes)}.")
        if init is not None and tuple(init.shape) != tuple(sizes):
            raise ProblemError(
                f"Param {name or ''}: init has shape {tuple(init.shape)}, declared is {tuple(sizes)}."
            )
        object.__setattr__(self, "shape", tuple(sizes))
        object.__setattr__(self, "init", init)
        object.__setattr__(self, "psd", psd)
        object.__setattr__(self, "name", name)

    @property
    def learnable(self) -> bool:
        """Whether the layer owns the value."""
        return self.init is not None


@dataclass(frozen=True, eq=False)
class Sparse:
    """Declaration of a sparse matrix in a problem. Entries of equal position add up.

    Args:
        rows, cols: Position of each entry. Shape (nnz,), int64.
        shape: (rows, columns) of the matrix.
        values: Constant values (nnz,), or a ``Param(nnz)``.

    Raises:
        ProblemError: If positions are out of range or lengths differ.
    """

    rows: Tensor
    cols: Tensor
    shape: tuple[int, int]
    values: Tensor | Param

    def __post_init__(self) -> None:
        nnz = self.rows.numel()
        if self.rows.shape != (nnz,) or self.cols.shape != (nnz,):
            raise ProblemError(
                f"Sparse: rows and cols must be vectors of one length, "
                f"got {tuple(self.rows.shape)} and {tuple(self.cols.shape)}."
            )
        if self.rows.dtype != torch.int64 or self.cols.dtype != torch.int64:
            raise ProblemError(f"Sparse: rows and cols must be int64, got {self.rows.dtype}.")
        if nnz and (
            int(self.rows.min()) < 0
            or int(self.cols.min()) < 0
            or int(self.rows.max()) >= self.shape[0]
            or int(self.cols.max()) >= self.shape[1]
        ):
            raise ProblemError(f"Sparse: an entry lies outside the shape {self.shape}.")
        if tuple(self.values.shape) != (nnz,):
            raise ProblemError(
                f"Sparse: values have shape {tuple(self.values.shape)}, expected ({nnz},)."
            )
