"""Sparse systems: a shifted factor per sample, refined until the residual of K itself is at rounding.

K + δ·diag(I, -I) is quasi-definite where H is positive semidefinite: it has an LDLᵀ factor for every
order of the pivots, so that the order is free to keep the factor sparse. Refinement with it converges to
the solution of K that is nearest to the starting point, if there is one, whether or not K is singular.

Sources: Vanderbei, Symmetric quasidefinite matrices (1995), theorem 2.1; Friedlander and Orban, A
primal-dual regularized interior-point method for convex quadratic programs (2012), section 2. Factors
are SuperLU's in symmetric mode, minimum degree on A + Aᵀ: see docs/decisions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..numerics.sparse import Matrix, SparseMatrix
from .direct import eliminate_fixed
from .operator import Operator

_SHIFT = 1e-8
"""δ on rows and columns of like size. Each refinement takes off eight digits where K is regular."""

_REFINEMENTS = 12

_RETURN = 1e-6
"""Relative error above which a known solution that did not come back shows a null space."""

_PIVOT = 1e-4
"""A pivot on rows of like size below which a known solution is asked for: with a null space one of them is
of the size of the shift."""

_PASSES = 4
"""Of Ruiz's equilibration: the shift need only be small beside the entries."""


class SparseFactors:
    """Factors of each sample's free variables and active rows; the interface of ``Factors``.

    Attributes:
        operator: K, without gradient.
        careful: The samples whose K is singular, (b,) int64; None for none.
        nullity: 1 for these, whatever the dimension of the null space, else 0. Shape (B,), int64.
        nonconvex: Never set: sparse Hessians are those of recognised QPs. Shape (B,), bool.
        null_vectors: A random vector of each null space. Shape (b, size, 1).
    """

    exact = False

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        like = operator.active
        self.nonconvex = torch.zeros(operator.batch, dtype=torch.bool, device=like.device)
        entries = _Entries(operator)
        self._one = operator.shared and operator.all_active
        count = 1 if self._one else operator.batch
        self._samples = [_SampleFactor(entries, i) for i in range(count)]
        self._find_null_vectors()

    def _find_null_vectors(self) -> None:
        operator = self.operator
        suspicious = torch.tensor([f.pivot < _PIVOT for f in self._samples])
        self.nullity = torch.zeros_like(self.nonconvex, dtype=torch.long)
        self.careful: Tensor | None = None
        self.null_vectors = _values(operator.rows).new_zeros(0, operator.size, 1)
        if not bool(suspicious.any()):
            return
        generator = torch.Generator().manual_seed(0)
        known = torch.randn(operator.size, generator=generator, dtype=torch.float64)
        values = _values(operator.rows)
        known = known.to(dtype=values.dtype, device=values.device).expand(operator.batch, -1)
        off = self.solve(operator.product(known)) - known
        size = off.abs().amax(-1)
        eps = torch.finfo(off.dtype).eps
        singular = ~(size <= max(_RETURN, 1e4 * eps) * known.abs().max())
        # What a sample is asked depends on itself alone.
        singular = singular & suspicious.to(singular.device)
        self.nullity = singular.long()
        self.careful = torch.nonzero(singular).flatten() if bool(singular.any()) else None
        length = torch.linalg.vector_norm(off, dim=-1, keepdim=True)
        self.null_vectors = (off / length.clamp_min(eps))[singular].unsqueeze(-1)

    def resized(self, operator: Operator) -> SparseFactors:
        """Return the factors for a batch of another size: new ones."""
        return self if operator.batch == self.operator.batch else SparseFactors(operator)

    @property
    def singular(self) -> bool:
        """Whether some sample's K has a null space."""
        return self.careful is not None

    def solve(self, right: Tensor) -> Tensor:
        """Return the solution of Ky = r, the one nearest to 0 on scaled rows where there are many.

        Args:
            right: Shape (B, size).
        """
        found = self._once(right)
        gap = right - self.operator.product(found)
        enough = 4 * torch.finfo(right.dtype).eps * right.abs().amax(-1)
        wanted = gap.abs().amax(-1) > enough
        for _ in range(_REFINEMENTS):
            if not bool(wanted.any()):
                break
            trial = found + self._once(torch.where(wanted.unsqueeze(-1), gap, 0.0))
            left = right - self.operator.product(trial)
            wanted = wanted & (left.abs().amax(-1) < 0.5 * gap.abs().amax(-1))
            found = torch.where(wanted.unsqueeze(-1), trial, found)
            gap = torch.where(wanted.unsqueeze(-1), left, gap)
            wanted = wanted & (gap.abs().amax(-1) > enough)
        return found

    def _once(self, right: Tensor) -> Tensor:
        return eliminate_fixed(self.operator, right, self._solve_free)

    def _solve_free(self, r_x: Tensor, r_c: Tensor) -> tuple[Tensor, Tensor]:
        n = r_x.shape[-1]
        both = torch.cat([r_x, r_c], -1)
        values = both.detach().cpu().double().numpy()
        if self._one:
            found = self._samples[0].solve(values.T).T
        else:
            found = np.stack([f.solve(v) for f, v in zip(self._samples, values, strict=True)])
        solved = torch.from_numpy(found).to(both)
        return solved[:, :n], solved[:, n:]


class _Entries:
    """The entries of [[H, Cᵀ], [C, 0]] of all samples, with positions, on rows of like size."""

    def __init__(self, operator: Operator) -> None:
        n, k = operator.n, operator.k
        rows = operator.rows
        hessian = operator.hessian
        if not isinstance(rows, SparseMatrix):
            raise TypeError("SparseFactors needs a sparse C.")
        if isinstance(hessian, SparseMatrix):
            i, j, h = hessian.rows, hessian.cols, hessian.values
        else:
            i = j = torch.arange(n, device=hessian.device)
            h = hessian
        self.i = _numpy(torch.cat([i, rows.rows + n, rows.cols]))
        self.j = _numpy(torch.cat([j, rows.cols, rows.rows + n]))
        lead = max(_lead(h), _lead(rows.values))
        parts = [v.detach().reshape(-1, v.shape[-1]).expand(lead, -1)
                 for v in (h, rows.values, rows.values)]  # fmt: skip
        self.values: NDArray[np.float64] = _numpy(torch.cat(parts, -1).double())
        held = torch.ones(operator.batch, n, dtype=torch.bool)
        if operator.fixed is not None:
            held = ~operator.fixed.cpu()
        self.held: NDArray[np.bool_] = _numpy(torch.cat([held, operator.active.cpu()], -1))
        self.size, self.n = n + k, n

    def of(self, sample: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self.values[sample if len(self.values) > 1 else 0]
        return values


class _SampleFactor:
    def __init__(self, entries: _Entries, sample: int) -> None:
        from scipy.sparse import csc_matrix, identity  # scipy stays out of `import foldcore`
        from scipy.sparse.linalg import splu

        held = entries.held[sample]
        self._where = np.flatnonzero(held)
        kept = held[entries.i] & held[entries.j]
        place = np.cumsum(held) - 1
        i, j = place[entries.i[kept]], place[entries.j[kept]]
        m = self._where.size
        matrix = csc_matrix((entries.of(sample)[kept], (i, j)), shape=(m, m))
        self._d = _equilibrate(matrix)
        count = np.repeat(np.arange(m), np.diff(matrix.indptr))
        matrix.data *= self._d[matrix.indices] * self._d[count]
        shift = np.where(self._where < entries.n, _SHIFT, -_SHIFT)
        shifted = matrix + identity(m, format="csc").multiply(shift)
        self._factor: Any = None
        self.pivot = 0.0 if m else 1.0
        if m and np.isfinite(matrix.data).all():
            # The quasi-definite matrix needs no exchange of rows, which would cost its sparsity.
            self._factor = splu(
                shifted.tocsc(),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
            self.pivot = float(np.abs(self._factor.U.diagonal()).min())

    def solve(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the solution, 0 where nothing is held. Shapes (size,) or (size, B)."""
        out = np.zeros_like(right)
        if self._factor is None:
            return out
        d = self._d if right.ndim == 1 else self._d[:, None]
        out[self._where] = d * self._factor.solve(np.ascontiguousarray(d * right[self._where]))
        return out


def _equilibrate(matrix: Any) -> NDArray[np.float64]:
    """Return powers of two that bring the largest entry of every row near 1; see ``equilibrate``."""
    m = matrix.shape[0]
    size = abs(matrix)
    d = np.ones(m)
    columns = np.repeat(np.arange(m), np.diff(matrix.indptr))
    for _ in range(_PASSES):
        scaled = size.data * d[size.indices] * d[columns]
        largest = np.zeros(m)
        np.maximum.at(largest, columns, scaled)
        usable = (largest > 0) & np.isfinite(largest)
        d *= np.exp2(np.round(-0.5 * np.log2(np.where(usable, largest, 1.0))))
    return d


def _values(matrix: Matrix) -> Tensor:
    return matrix.values if isinstance(matrix, SparseMatrix) else matrix


def _lead(values: Tensor) -> int:
    return values.shape[0] if values.ndim == 2 else 1


def _numpy(tensor: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = tensor.cpu().numpy()
    return found
