"""The factored form in which Clarabel takes the Hessian of a quadratic row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix

from foldcore import is_positive_semidefinite

Floats = NDArray[np.float64]

_ROUNDING = 100 * float(np.finfo(np.float64).eps)
"""Times n and the largest entry: eigenvalues up to this are what rounding left of zero."""


def factor_of(hessian: Floats) -> Any:
    """Return a sparse F with FᵀF = P, for a dense symmetric P; None if P is indefinite.

    F has a row for each eigenvalue above rounding; that of a diagonal P is diagonal.
    """
    if not is_positive_semidefinite(hessian):
        return None
    n = hessian.shape[0]
    diagonal = np.diagonal(hessian)
    if not (hessian - np.diag(diagonal)).any():
        values, vectors = diagonal, np.eye(n)
    else:
        values, vectors = np.linalg.eigh(hessian)
    kept = values > _ROUNDING * n * float(np.abs(hessian).max(initial=0.0))
    return csc_matrix((vectors[:, kept] * np.sqrt(values[kept])).T)
