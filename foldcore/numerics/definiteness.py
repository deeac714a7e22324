"""The one test of definiteness, of torch, numpy and scipy matrices, and the Cholesky factors behind it."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

_ROUNDING = 100.0
"""Times n machine epsilons of the largest entry: what counts as zero beside it. Cholesky is exact for a
matrix at most about n epsilons away (Higham, Accuracy and Stability of Numerical Algorithms (2002),
theorem 10.3); the hundred is left to how the matrix was made, for instance as L @ L.mT."""


@overload
def is_positive_semidefinite(matrix: Tensor) -> Tensor: ...
@overload
def is_positive_semidefinite(matrix: Any) -> bool: ...
def is_positive_semidefinite(matrix: Any) -> Tensor | bool:
    """Return whether the symmetric part of a matrix is positive semidefinite up to rounding.

    That is where elimination with diagonal pivots meets positive ones alone once 100·n machine
    epsilons of the largest entry are added to the diagonal: Cholesky, or sparse LU without row
    exchanges. A matrix that is not finite is not semidefinite.

    Args:
        matrix: A Tensor (*batch, n, n), a numpy array (n, n), or a scipy sparse matrix (n, n).

    Returns:
        Of a Tensor: shape (*batch,), bool. Else a bool.
    """
    n = matrix.shape[-1]
    if isinstance(matrix, Tensor):
        if not n:
            return torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
        return _semidefinite_tensor(matrix.detach())
    if not n:
        return True
    symmetric = (matrix + matrix.T) / 2
    size = float(abs(symmetric).max())
    if not size < np.inf:
        return False
    shift = rounding(n, float(np.finfo(np.float64).eps), size)
    if isinstance(matrix, np.ndarray):
        return size == 0 or _eliminates_dense(symmetric + shift * np.eye(n))
    return size == 0 or _eliminates_sparse(symmetric, shift)


def is_positive_definite(matrix: Tensor, rtol: float | None = None) -> Tensor:
    """Return which symmetric matrices are positive definite: see :func:`factor_definite`.

    Shapes (*batch, n, n) -> (*batch,), bool.
    """
    with torch.no_grad():
        return _factor(matrix, rtol)[1]


def factor_definite(matrix: Tensor, rtol: float | None = None) -> tuple[Tensor, Tensor]:
    """Return Cholesky factors, differentiably, and which matrices are positive definite.

    A matrix is where its smallest squared pivot exceeds ``rtol`` times its largest diagonal entry.
    The others get the identity for their factor, without gradient: they harm themselves alone, and
    callers mark them.

    Args:
        matrix: Symmetric; its lower triangle counts. Shape (*batch, n, n), n >= 1.
        rtol: Relative size of a squared pivot that is no rounding; 100·n machine epsilons by default.

    Returns:
        The lower factor (*batch, n, n), and (*batch,) bool.
    """
    factor, definite = _factor(matrix, rtol)
    if not bool(definite.all()):
        identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        factor = torch.linalg.cholesky(torch.where(definite[..., None, None], matrix, identity))
    return factor, definite


def solve_factored(factor: Tensor, right: Tensor) -> Tensor:
    """Solve L Lᵀ y = r per sample. L (n, n), shared and not expanded, or (B, n, n), with r (B, n)."""
    if factor.ndim == 2:
        return torch.cholesky_solve(right.mT, factor).mT
    return torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)


def rounding(n: int, eps: float, size: Any) -> Any:
    """Return what counts as zero in a matrix (n, n) with largest entry ``size`` (float or Tensor)."""
    return _ROUNDING * n * eps * size


def _factor(matrix: Tensor, rtol: float | None) -> tuple[Tensor, Tensor]:
    factor, info = torch.linalg.cholesky_ex(matrix)
    with torch.no_grad():
        pivots = torch.diagonal(factor, dim1=-2, dim2=-1).amin(-1) ** 2
        size = torch.diagonal(matrix, dim1=-2, dim2=-1).abs().amax(-1)
        if rtol is None:
            limit = rounding(matrix.shape[-1], torch.finfo(matrix.dtype).eps, size)
        else:
            limit = rtol * size
        return factor, (info == 0) & (pivots > limit)


def _semidefinite_tensor(matrix: Tensor) -> Tensor:
    n = matrix.shape[-1]
    symmetric = (matrix + matrix.mT) / 2
    size = symmetric.abs().amax((-2, -1))
    # A matrix of zeros is semidefinite: any shift shows it.
    size = torch.where(size > 0, size, torch.ones_like(size))
    shift = rounding(n, torch.finfo(matrix.dtype).eps, size)[..., None, None]
    identity = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    _, info = torch.linalg.cholesky_ex(symmetric + shift * identity)
    semidefinite: Tensor = info == 0
    return semidefinite


def _eliminates_dense(matrix: Any) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:  # numpy's word for a pivot that is not positive
        return False
    return True


def _eliminates_sparse(matrix: Any, shift: float) -> bool:
    """Return whether LU with diagonal pivots of a shifted sparse matrix meets positive ones alone."""
    from scipy.sparse import csc_matrix, identity  # scipy stays out of `import foldcore`
    from scipy.sparse.linalg import splu

    n = matrix.shape[0]
    shifted = csc_matrix(matrix + shift * identity(n, format="csc"))
    # Without this SuperLU would exchange rows where a diagonal entry is zero.
    if (shifted.diagonal() <= 0).any():
        return False
    try:
        factor = splu(
            shifted, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
    except RuntimeError:  # scipy's word for a zero pivot
        return False
    # Rows in another order than columns: a pivot off the diagonal, so that one on it was zero.
    exchanged = bool((factor.perm_r != factor.perm_c).any())
    return not exchanged and bool((factor.U.diagonal() > 0).all())
