"""What HiGHS does not check itself: NaN, empty bounds, an indefinite Hessian."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import identity
from scipy.sparse.linalg import splu

from foldcore import SampleAnswer, SampleData, SparseArray, Status

_LIMITS = ("h", "lower", "upper")


def refused(data: SampleData) -> SampleAnswer | None:
    """Return the answer for data that HiGHS must not see, else None.

    HiGHS calls an LP with a NaN cost unbounded, and drops a Hessian with an infinite entry.
    """
    for name, value in data.fields.items():
        numbers = value.values if isinstance(value, SparseArray) else value
        wrong = np.isnan(numbers) if name in _LIMITS else ~np.isfinite(numbers)
        if wrong.any():
            return SampleAnswer(Status.NUMERICAL, f"not solved: {name} contains NaN or inf")
    n = data.n
    lower, upper = data.vector("lower", n, -np.inf), data.vector("upper", n, np.inf)
    limit = data.vector("h", 0, np.inf)
    if (lower > upper).any() or (lower == np.inf).any() or (upper == -np.inf).any():
        return SampleAnswer(Status.INFEASIBLE, "not solved: lower exceeds upper, or is +inf")
    if (limit == -np.inf).any():
        return SampleAnswer(Status.INFEASIBLE, "not solved: h contains -inf")
    return None


def is_convex(hessian: Any) -> bool:
    """Whether a symmetric scipy matrix is positive semidefinite up to rounding."""
    return _has_positive_pivots(hessian, 1.0)


def is_definite(hessian: Any) -> bool:
    """Whether a symmetric scipy matrix is positive definite by more than rounding."""
    return _has_positive_pivots(hessian, -1.0)


def _has_positive_pivots(hessian: Any, sign: float) -> bool:
    """Shift by ``sign`` times rounding, then eliminate symmetrically.

    Elimination with diagonal pivots has positive ones alone iff the matrix is positive definite.
    """
    size = float(abs(hessian).max()) if hessian.nnz else 0.0
    if size == 0:
        return sign > 0
    n = hessian.shape[0]
    shift = sign * 100 * n * np.finfo(float).eps * size
    shifted = (hessian + shift * identity(n, format="csc")).tocsc()
    if (shifted.diagonal() <= 0).any():
        return False
    try:
        factor = splu(
            shifted,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # "Factor is exactly singular": a zero pivot
        return False
    symmetric = bool((factor.perm_r == factor.perm_c).all())
    return symmetric and bool((factor.U.diagonal() > 0).all())
