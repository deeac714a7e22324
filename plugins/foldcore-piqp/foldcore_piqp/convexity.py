"""What PIQP does not check itself: whether P is positive semidefinite."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csc_matrix, identity
from scipy.sparse.linalg import splu


def is_convex(hessian: Any) -> bool:
    """Return whether a symmetric matrix, dense or of scipy, is positive semidefinite up to rounding.

    Elimination with diagonal pivots, of the matrix shifted by rounding, meets positive ones alone
    iff the shifted matrix is positive definite.
    """
    n = hessian.shape[0]
    size = float(abs(hessian).max()) if n else 0.0
    if size == 0:
        return True
    shift = 100 * n * float(np.finfo(np.float64).eps) * size
    if isinstance(hessian, np.ndarray):
        try:
            np.linalg.cholesky(hessian + shift * np.eye(n))
        except np.linalg.LinAlgError:  # numpy's word for a pivot that is not positive
            return False
        return True
    shifted = csc_matrix(hessian + shift * identity(n, format="csc"))
    if (shifted.diagonal() <= 0).any():
        return False
    options = {"SymmetricMode": True}
    try:
        factor = splu(shifted, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    except RuntimeError:  # scipy's word for a zero pivot
        return False
    symmetric = bool((factor.perm_r == factor.perm_c).all())
    return symmetric and bool((factor.U.diagonal() > 0).all())
