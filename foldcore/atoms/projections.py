"""Euclidean projections in closed form, batched, differentiable in the point and in the set's data.

Every function maps y (B, n) to argmin_x ‖x - y‖² over a set. Each datum is shared by the batch or has
a leading batch dimension; shared data is broadcast, never copied per sample. dtype and device are
those of y. Derivatives are exact wherever the projection is differentiable, that is almost
everywhere; where it is not they are finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ProblemError, name_samples
from ..numerics.orthogonal import dependent_columns
from ..numerics.products import matvec, rmatvec

Scalar = Tensor | float
"""A number, a tensor () shared by the batch, or (B,)."""
Vector = Tensor | float
"""A number, a tensor () or (n,) shared by the batch, or (B, n), (B, 1)."""

_PROBES = (15, 3)
"""Breakpoints tried at once, where y is small (fewer rounds count) and where not (memory counts)."""
_ROUNDING = 4.0
"""Multiple of epsilon times the size of its terms within which a sum counts as zero."""
_SMALL = 4096
"""Entries up to which y counts as small."""


def project_box(y: Tensor, lower: Vector | None, upper: Vector | None) -> Tensor:
    """Project on {x: lower <= x <= upper}.

    At a strictly active bound the gradient goes to that bound alone, and where lower == upper
    never to y. A bound of ±inf is absent and gets gradient exactly 0.

    Args:
        y: (B, n).
        lower, upper: See ``Vector``; None is absent.
    """
    if lower is None and upper is None:
        return y
    low = None if lower is None else _like(lower, y)
    high = None if upper is None else _like(upper, y)
    below, above = _outside(y, low, high)
    # where and not clamp: clamp splits or drops the gradient at ties.
    x = y if high is None else torch.where(above, high, y)
    return x if low is None else torch.where(below, low, x)


def _outside(y: Tensor, lower: Tensor | None, upper: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which entries lie below and above; one whose bounds coincide is always either."""
    none = y.new_zeros((), dtype=torch.bool)
    below = none if lower is None else y < lower
    above = none if upper is None else y > upper
    if lower is not None and upper is not None:
        above = above | ((lower == upper) & ~below)
    return below, above


def project_box_hyperplane(
    y: Tensor, a: Tensor, b: Scalar, lower: Vector | None = None, upper: Vector | None = None
) -> Tensor:
    """Project on {x: aᵀx = b, lower <= x <= upper}, the continuous quadratic knapsack.

    x = clip(y - τa) with τ the root of the nonincreasing, piecewise linear aᵀclip(y - τa) - b. Its
    segment is searched among the sorted breakpoints without gradient; there
    τ = (Σ_free a_i y_i + Σ_held a_i bound_i - b) / Σ_free a_i², which autograd differentiates.
    At a vertex (no free variable with a_i ≠ 0) the gradient to y is zero. An empty set gives a finite
    point.

    Source: Beck, First-Order Methods in Optimization (2017), theorem 6.27; Kiwiel, Breakpoint
    searching algorithms for the continuous quadratic knapsack problem, Math. Program. 112 (2008).

    Args:
        y: (B, n).
        a: (n,) or (B, n); zeros and negative entries allowed.
        b: See ``Scalar``.
        lower, upper: See ``Vector``; None or ±inf is absent.
    """
    offset = _column(b, y)
    low = None if lower is None else _like(lower, y)
    high = None if upper is None else _like(upper, y)
    with torch.no_grad():
        start, stop = _root_segment(y, a, offset, low, high)
        below, above = _outside(y - (start / 2 + stop / 2) * a, low, high)
        free = ~(below | above)
    zero = torch.zeros_like(y)
    held = zero if high is None else torch.where(above, high, zero)
    held = held if low is None else torch.where(below, low, held)
    slope = torch.where(free, a, zero)
    curvature = (slope * slope).sum(-1, keepdim=True)
    excess = (slope * y + a * held).sum(-1, keepdim=True) - offset
    moves = curvature > 0
    tau = torch.where(moves, excess / torch.where(moves, curvature, 1.0), 0.0)
    # Rounding may carry τ out of its segment, and far out where the slope is small.
    drift = torch.where(moves, tau.clamp(start, stop) - tau, 0.0)
    tau = tau + drift.detach()
    return project_box(torch.where(free, y - tau * a, held), low, high)


def _root_segment(
    y: Tensor, a: Tensor, b: Tensor, lower: Tensor | None, upper: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the neighbouring breakpoints, (B, 1) each, between which aᵀclip(y - τa) crosses b.

    The sum is evaluated afresh at a few breakpoints a round. Running sums over all of them would
    need fewer operations, but lose ten digits to a bound of 1e10 that no variable reaches.
    """
    largest = torch.finfo(y.dtype).max
    batch = y.shape[0]
    ends = y.new_full((batch, 1), largest)
    divisor = torch.where(a == 0, 1.0, a)
    points = [(y - bound) / divisor for bound in (lower, upper) if bound is not None]
    total = sum(p.shape[-1] for p in points)
    # Absent bounds give infinite breakpoints; a finite τ keeps τ·0 = 0 where a has zeros.
    tau = torch.cat([-ends, *points, ends], -1).clamp(-largest, largest).sort(-1).values
    normal = a.unsqueeze(-1)
    parts = _PROBES[y.numel() > _SMALL] + 1
    steps = torch.arange(parts + 1, device=y.device)
    shift = -(steps == 0).long()
    first = steps.new_zeros(batch, 1)
    last = steps.new_full((batch, 1), total)
    width = total
    # Breakpoint i is tau[i + 1]; those before ``first`` lie left of the root, from ``last`` on right.
    while width > 0:
        probes = first + (last - first) * steps // parts + shift
        x = _clipped(tau.gather(-1, probes[:, 1:-1] + 1), y, a, lower, upper)
        count = ((x @ normal).squeeze(-1) > b).sum(-1, keepdim=True)
        first = (probes.gather(-1, count) + 1).clamp(max=total)
        last = probes.gather(-1, count + 1)
        width //= parts
    # A root on one end alone may be the end of a flat piece beyond it: a vertex, where nothing moves.
    start, stop = tau.gather(-1, first), tau.gather(-1, first + 1)
    x = _clipped(torch.cat([start, stop], -1), y, a, lower, upper)
    gap, size = (x @ normal).squeeze(-1) - b, (x.abs() @ normal.abs()).squeeze(-1) + b.abs()
    # An end that stands for infinity may overflow, and is no root.
    at_end = (gap.abs() <= _ROUNDING * torch.finfo(y.dtype).eps * size) & gap.isfinite()
    at_start, at_stop = at_end[:, :1], at_end[:, 1:]
    left = (tau < start).sum(-1, keepdim=True) - 1
    right = (tau <= stop).sum(-1, keepdim=True) - 1
    first = torch.where(at_start & ~at_stop, left, torch.where(at_stop & ~at_start, right, first))
    first = first.clamp(0, total)
    return tau.gather(-1, first), tau.gather(-1, first + 1)


def _clipped(
    tau: Tensor, y: Tensor, a: Tensor, lower: Tensor | None, upper: Tensor | None
) -> Tensor:
    """Return clip(y - τa) for several τ at once. Shapes (B, K) -> (B, K, n)."""
    x = y.unsqueeze(-2) - tau.unsqueeze(-1) * a.unsqueeze(-2)
    if lower is None and upper is None:
        return x
    low, high = (b if b is None or b.ndim == 0 else b.unsqueeze(-2) for b in (lower, upper))
    return x.clamp(low, high)


def project_simplex(y: Tensor, total: Scalar) -> Tensor:
    """Project on {x >= 0: Σx = total}. See :func:`project_box_hyperplane`."""
    return project_box_hyperplane(y, y.new_ones(y.shape[-1]), total, 0.0, None)


def project_capped_simplex(y: Tensor, total: Scalar, cap: Vector) -> Tensor:
    """Project on {0 <= x <= cap: Σx = total}. See :func:`project_box_hyperplane`."""
    return project_box_hyperplane(y, y.new_ones(y.shape[-1]), total, 0.0, cap)


def project_l1_ball(y: Tensor, radius: Scalar) -> Tensor:
    """Project on {x: ‖x‖₁ <= radius}: outside, the simplex projection of |y| with the signs of y.

    Source: Duchi et al., Efficient projections onto the l1-ball, ICML (2008); Beck (2017), 6.5.2.
    """
    size = y.abs()
    inside = size.sum(-1, keepdim=True) <= _column(radius, y)
    return torch.where(inside, y, y.sign() * project_simplex(size, radius))


def project_l2_ball(y: Tensor, radius: Scalar, center: Vector | None = None) -> Tensor:
    """Project on {x: ‖x - center‖₂ <= radius}; the centre defaults to 0. Source: Beck (2017), lemma 6.26."""
    middle = y.new_zeros(()) if center is None else _like(center, y)
    limit = _column(radius, y)
    direction = y - middle
    square = (direction * direction).sum(-1, keepdim=True)
    outside = (square > limit * limit) | (limit == 0)
    length = torch.where(outside & (square > 0), square, torch.ones_like(square)).sqrt()
    return torch.where(outside, middle + limit / length * direction, y)


def project_half_space(y: Tensor, a: Tensor, b: Scalar) -> Tensor:
    """Project on {x: aᵀx <= b}; +inf in b is absent, a = 0 leaves y. Source: Beck (2017), lemma 6.26."""
    excess = (a * y).sum(-1, keepdim=True) - _column(b, y)
    excess = torch.where(excess > 0, excess, torch.zeros_like(excess))
    square = (a * a).sum(-1, keepdim=True)
    return y - excess / torch.where(square > 0, square, torch.ones_like(square)) * a


class AffineFactors:
    """Aᵀ = QR of {x: Ax = b}; shared A is factored once for all samples.

    A sample of its own A whose rows are dependent harms itself alone: it is marked.

    Attributes:
        basis, triangle: Q (n, p) and R (p, p), per sample where A is. On the graph of A.
        dependent: The marked samples, (B,) bool; None for none.

    Args:
        A: (p, n) or (B, p, n), rows independent.

    Raises:
        ProblemError: If rows of a shared A are linearly dependent, naming them, or p > n.
    """

    def __init__(self, A: Tensor) -> None:
        if A.shape[-2] > A.shape[-1]:
            raise ProblemError(
                f"A: {A.shape[-2]} rows in {A.shape[-1]} variables are linearly dependent, expected "
                "independent rows. Remove those that follow from the others."
            )
        self.basis, self.triangle = torch.linalg.qr(A.mT)
        self.dependent = _dependent_samples(self.triangle.detach())
        if self.dependent is not None:
            # QR has no derivative there, and NaN would reach what the samples share.
            independent = torch.eye(*A.shape[-2:], dtype=A.dtype, device=A.device)
            mended = torch.where(self.dependent[:, None, None], independent, A)
            self.basis, self.triangle = torch.linalg.qr(mended.mT)


class AffineProjector:
    """Projection on {x: Ax = b}: x = y - Q(Qᵀy - R⁻ᵀb). Differentiable in y, A and b.

    Attributes:
        dependent: Samples whose rows are dependent, which get NaN without gradient, (B,) bool; None
            for none.

    Args:
        A: (p, n) or (B, p, n), or its factors.
        b: (p,) or (B, p).

    Raises:
        ProblemError: As of :class:`AffineFactors`.
    """

    def __init__(self, A: Tensor | AffineFactors, b: Tensor) -> None:
        factors = A if isinstance(A, AffineFactors) else AffineFactors(A)
        self._basis, self.dependent = factors.basis, factors.dependent
        triangle = factors.triangle
        if triangle.ndim == 2 and b.ndim == 2:
            solved = torch.linalg.solve_triangular(triangle.mT, b.mT, upper=False)
            self._offset = solved.mT
        else:
            right = b.unsqueeze(-1)
            solved = torch.linalg.solve_triangular(triangle.mT, right, upper=False)
            self._offset = solved.squeeze(-1)

    def __call__(self, y: Tensor) -> Tensor:
        """Return the projection. Shapes (B, n) -> (B, n)."""
        x = y - matvec(self._basis, rmatvec(self._basis, y) - self._offset)
        return x if self.dependent is None else torch.where(self.dependent[:, None], torch.nan, x)


def _dependent_samples(triangle: Tensor) -> Tensor | None:
    """Return where a diagonal entry of R vanishes beside its column, which is as long as A's row.

    Shape (B,), bool; None for nowhere.

    Raises:
        ProblemError: If R is shared and one does.
    """
    dependent = dependent_columns(triangle)
    if not bool(dependent.any()):
        return None
    if dependent.ndim == 2:
        samples: Tensor = dependent.any(-1)
        return samples
    rows = name_samples(dependent.nonzero().flatten().tolist())
    raise ProblemError(
        f"A: rows {rows} depend linearly on the rows before them, expected independent rows. "
        "Remove those that follow from the others, or keep A and b as rows of a quadratic program."
    )


def _like(value: Tensor | float, y: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else y.new_full((), value)


def _column(value: Scalar, y: Tensor) -> Tensor:
    """Return () or (B, 1), to broadcast against (B, n)."""
    tensor = _like(value, y)
    return tensor.unsqueeze(-1) if tensor.ndim else tensor
