"""What Clarabel does not check itself: whether Hessians are positive semidefinite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, identity
from scipy.sparse.linalg import splu

Floats = NDArray[np.float64]


def is_convex(hessian: Any) -> bool:
    """Return whether a symmetric scipy matrix is positive semidefinite up to rounding.

    Elimination with diagonal pivots, of the matrix shifted by rounding, meets positive ones alone
    iff the shifted matrix is positive definite.
    """
    size = float(abs(hessian).max()) if hessian.nnz else 0.0
    if size == 0:
        return True
    n = hessian.shape[0]
    shifted = csc_matrix(hessian + _rounding(n, size) * identity(n, format="csc"))
    if (shifted.diagonal() <= 0).any():
        return False
    options = {"SymmetricMode": True}
    try:
        factor = splu(shifted, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    except RuntimeError:  # scipy's word for a zero pivot
        return False
    symmetric = bool((factor.perm_r == factor.perm_c).all())
    return symmetric and bool((factor.U.diagonal() > 0).all())


def factor_of(hessian: Floats) -> Any:
    """Return a sparse F with FᵀF = P, for a dense symmetric P; None if P is indefinite.

    F has a row for each eigenvalue above rounding; that of a diagonal P is diagonal.
    """
    n = hessian.shape[0]
    tolerance = _rounding(n, float(np.abs(hessian).max(initial=0.0)))
    diagonal = np.diagonal(hessian)
    if not (hessian - np.diag(diagonal)).any():
        values, vectors = diagonal, np.eye(n)
    else:
        values, vectors = np.linalg.eigh(hessian)
    if (values < -tolerance).any():
        return None
    kept = values > tolerance
    return csc_matrix((vectors[:, kept] * np.sqrt(values[kept])).T)


def _rounding(n: int, size: float) -> float:
    return 100 * n * float(np.finfo(np.float64).eps) * size
