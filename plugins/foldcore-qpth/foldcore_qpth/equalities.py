"""Which equalities of which samples are independent: qpth needs full row rank."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from .standard_form import StandardForm

RANK_RTOL = 1e-10
"""A row that is a combination of others up to this part of its length counts as dependent."""


@dataclass(frozen=True)
class Group:
    """Samples that have the same equalities.

    Attributes:
        samples: Their indices, ascending.
        kept: Independent rows of A.
        fixed: Columns that are fixed.
    """

    samples: tuple[int, ...]
    kept: tuple[int, ...]
    fixed: tuple[int, ...]

    def only(self, *samples: int) -> Group:
        """Return the group of some of its samples."""
        return replace(self, samples=samples)

    def select(self, form: StandardForm) -> tuple[Tensor, Tensor]:
        """Return (A, b) of the group with the rows of fixed variables appended."""
        rows = list(self.samples)
        A, b = form.A[rows][:, list(self.kept)], form.b[rows][:, list(self.kept)]
        unit = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)[list(self.fixed)]
        value = form.value[rows][:, list(self.fixed)]
        return torch.cat([A, unit.expand(len(rows), -1, -1)], 1), torch.cat([b, value], 1)


Known = dict[bytes, tuple[int, ...]]
"""Independent rows of one constant A, by the mask of fixed columns."""


def group(form: StandardForm, samples: list[int], known: Known) -> list[Group]:
    """Group samples by their independent equalities.

    Args:
        known: Filled for an A that is shared, and read; give an empty one if A may have changed.
    """
    fixed = form.fixed.cpu().numpy()
    A = form.A.detach().cpu().numpy()
    members: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
    for i in samples:
        mask = fixed[i].tobytes()
        if form.shared_equalities:
            if mask not in known:
                known[mask] = independent_rows(A[i], fixed[i])
            kept = known[mask]
        else:
            kept = independent_rows(A[i], fixed[i])
        members.setdefault((kept, mask), []).append(i)
    return [
        Group(tuple(rows), kept, tuple(np.flatnonzero(fixed[rows[0]]).tolist()))
        for (kept, _), rows in members.items()
    ]


def independent_rows(A: NDArray[np.float64], fixed: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return rows of A that are independent of each other and of the fixed columns.

    By QR with pivoting of the rows, scaled to length 1, in the columns that are free.
    """
    length = np.linalg.norm(A, axis=1)
    rows = np.flatnonzero(length > 0)
    free = A[rows][:, ~fixed] / length[rows, None]
    if free.size == 0:
        return ()
    triangle, order = scipy.linalg.qr(free.T, mode="r", pivoting=True, check_finite=False)
    rank = int((np.abs(np.diagonal(triangle)) > RANK_RTOL).sum())
    return tuple(sorted(rows[order[:rank]].tolist()))
