"""Euclidean projections in closed form, batched, differentiable in the point and in the set's data.

Every function maps y (B, n) to argmin_x ‖x - y‖² over a set. Each datum is shared by the batch or has
a leading batch dimension; shared data is broadcast, never copied per sample. dtype and device are
those of y. Derivatives are exact wherever the projection is differentiable, that is almost
everywhere; where it is not they are finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import ProblemError, name_samples
from .linalg import matvec, rmatvec

Scalar = Tensor | float
"""A number, a tensor () shared by the batch, or (B,)."""
Vector = Tensor | float
"""A number, a tensor () or (n,) shared by the batch, or (B, n), (B, 1)."""

_PROBES = 7
"""Breakpoints tried at once: three rounds for n = 100, at 7 times the memory of y."""
_ROUNDING = 8.0
"""Multiple of machine epsilon within which a point counts as lying on its bound."""
_DEPENDENT = 100.0
"""Multiple of n·epsilon below which a row's part outside the others' span counts as zero."""


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
    if upper is None:
        lower = _like(lower, y)
        return torch.where(y < lower, lower, y)
    upper = _like(upper, y)
    if lower is None:
        return torch.where(y > upper, upper, y)
    lower = _like(lower, y)
    below = y < lower
    above = (y > upper) | ((lower == upper) & ~below)
    # where and not clamp: clamp splits or drops the gradient at ties.
    return torch.where(below, lower, torch.where(above, upper, y))


def project_box_hyperplane(
    y: Tensor, a: Tensor, b: Scalar, lower: Vector | None = None, upper: Vector | None = None
) -> Tensor:
    """Project on {x: aᵀx = b, lower <= x <= upper}, the continuous quadratic knapsack.

    x = clip(y - τa) with τ the root of the nonincreasing, piecewise linear aᵀclip(y - τa) - b. Its
    segment is searched among the sorted breakpoints without gradient; there
    τ = (Σ_free a_i y_i + Σ_held a_i bound_i - b) / Σ_free a_i², which autograd differentiates.
    At a vertex (no free variable with a_i ≠ 0) the gradient to y is zero in all held entries. If the
    set is empty the result is the point of the box nearest to the hyperplane.

    Source: Beck, First-Order Methods in Optimization (2017), theorem 6.27; Kiwiel, Breakpoint
    searching algorithms for the continuous quadratic knapsack problem, Math. Program. 112 (2008).

    Args:
        y: (B, n).
        a: (n,) or (B, n); zeros and negative entries allowed.
        b: See ``Scalar``.
        lower, upper: See ``Vector``; None or ±inf is absent.
    """
    offset = _column(b, y)
    low = y.new_full((), -math.inf) if lower is None else _like(lower, y)
    high = y.new_full((), math.inf) if upper is None else _like(upper, y)
    if lower is None and upper is None:
        free = torch.ones_like(y, dtype=torch.bool)
        return y - _multiplier(y, a, offset, free, torch.zeros_like(y)) * a
    with torch.no_grad():
        ends = (lower is not None, upper is not None)
        at_lower, at_upper, start, stop = _active_bounds(y, a, offset, low, high, ends)
    held = torch.where(at_lower, low, torch.where(at_upper, high, torch.zeros_like(y)))
    free = ~(at_lower | at_upper)
    tau = _multiplier(y, a, offset, free, held)
    # Rounding may carry tau out of its segment, far out where the slope is small.
    tau = tau + (tau.clamp(start, stop) - tau).detach()
    return project_box(torch.where(free, y - tau * a, held), lower, upper)


def _multiplier(y: Tensor, a: Tensor, b: Tensor, free: Tensor, held: Tensor) -> Tensor:
    """Return τ (B, 1) from the free variables and the values of the held ones; Σ_free a² = 0 gives a
    finite number that moves no variable."""
    slopes = torch.where(free, a, torch.zeros_like(y))
    curvature = (slopes * slopes).sum(-1, keepdim=True)
    excess = (slopes * y + a * held).sum(-1, keepdim=True) - b
    return excess / torch.where(curvature > 0, curvature, torch.ones_like(curvature))


def _active_bounds(
    y: Tensor, a: Tensor, b: Tensor, lower: Tensor, upper: Tensor, ends: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return which bounds hold, (B, n) each, and the ends of the root's segment, (B, 1) each."""
    zero = a == 0
    divisor = torch.where(zero, torch.ones_like(a), a)
    to_lower, to_upper = (y - lower) / divisor, (y - upper) / divisor
    given = [p for p, end in zip((to_lower, to_upper), ends, strict=True) if end]
    points = torch.where(zero, math.inf, torch.stack(given, -2)).flatten(-2).sort(-1).values
    start, stop = _segment(points, y, a, b, lower, upper)
    # As τ grows a variable stays at its first bound up to ``enter`` and rests at the other from ``leave``.
    enter, leave = torch.minimum(to_lower, to_upper), torch.maximum(to_lower, to_upper)
    first, last = enter >= stop, leave <= start
    at_lower = torch.where(zero, y < lower, torch.where(a > 0, last, first))
    at_upper = torch.where(zero, y > upper, torch.where(a > 0, first, last)) & ~at_lower
    free = ~(at_lower | at_upper)
    held = torch.where(at_lower, lower, torch.where(at_upper, upper, torch.zeros_like(y)))
    tau = _multiplier(y, a, b, free, held).clamp(start, stop)
    x = torch.where(free, y - tau * a, held)
    # At a vertex, rounding in Σ a·bound - b lets one variable leave its bound by that rounding.
    scale = (a * x).abs().sum(-1, keepdim=True) + b.abs()
    rounding = _ROUNDING * torch.finfo(y.dtype).eps * (y.abs() + x.abs() + scale / divisor.abs())
    loose = free & ~zero
    vertex = (~loose | (torch.minimum(x - lower, upper - x) <= rounding)).all(-1, keepdim=True)
    nearer = x - lower <= upper - x
    at_lower = at_lower | (vertex & loose & nearer)
    at_upper = at_upper | (vertex & loose & ~nearer)
    return at_lower, at_upper, start, stop


def _segment(
    points: Tensor, y: Tensor, a: Tensor, b: Tensor, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the neighbouring breakpoints, (B, 1) each, between which aᵀclip(y - τa) crosses b.

    The sum is evaluated afresh at a few breakpoints a round. Running sums over all of them need
    fewer operations, but a bound of 1e10 that nobody reaches would cost them ten digits.
    """
    total = points.shape[-1]
    zero = a == 0
    ends = torch.where(zero, 0.0, a * lower), torch.where(zero, 0.0, a * upper)
    floor, ceiling = torch.minimum(*ends), torch.maximum(*ends)
    floor, ceiling, square = (t.unsqueeze(-2) for t in (floor, ceiling, a * a))
    moment = (a * y).unsqueeze(-2)
    steps = torch.arange(1, _PROBES + 1, device=y.device)
    first = torch.zeros(y.shape[0], 1, dtype=torch.int64, device=y.device)
    last = torch.full_like(first, total)
    width = total
    while width > 0:
        probes = first + (last - first) * steps // (_PROBES + 1)
        tau = points.gather(-1, probes.clamp(max=total - 1))
        reached = (moment - tau.unsqueeze(-1) * square).clamp(floor, ceiling).sum(-1)
        above = ((reached > b) & (tau < math.inf)) | (tau == -math.inf)
        count = above.sum(-1, keepdim=True)
        before = probes.gather(-1, (count - 1).clamp(min=0)) + 1
        after = probes.gather(-1, count.clamp(max=_PROBES - 1))
        first = torch.where(count > 0, before, first).clamp(max=total)
        last = torch.where(count < _PROBES, after, last)
        width //= _PROBES + 1
    start = points.gather(-1, (first - 1).clamp(min=0))
    stop = points.gather(-1, first.clamp(max=total - 1))
    return (
        torch.where(first > 0, start, -math.inf),
        torch.where(first < total, stop, math.inf),
    )


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


class AffineProjector:
    """Projection on {x: Ax = b}, factored once: x = y - Q(Qᵀy - R⁻ᵀb) with Aᵀ = QR.

    Shared A is factored once for all samples. Differentiable in y, A and b.

    Args:
        A: (p, n) or (B, p, n), rows independent.
        b: (p,) or (B, p).

    Raises:
        ProblemError: If rows of A are linearly dependent; names rows and samples.
    """

    def __init__(self, A: Tensor, b: Tensor) -> None:
        if A.shape[-2] > A.shape[-1]:
            raise ProblemError(
                f"A: {A.shape[-2]} rows in {A.shape[-1]} variables are linearly dependent, expected "
                "independent rows. Remove those that follow from the others."
            )
        self._basis, triangle = torch.linalg.qr(A.mT)
        _check_independent(triangle.detach())
        if A.ndim == 2 and b.ndim == 2:
            solved = torch.linalg.solve_triangular(triangle.mT, b.mT, upper=False)
            self._offset = solved.mT
        else:
            right = b.unsqueeze(-1)
            solved = torch.linalg.solve_triangular(triangle.mT, right, upper=False)
            self._offset = solved.squeeze(-1)

    def __call__(self, y: Tensor) -> Tensor:
        """Return the projection. Shapes (B, n) -> (B, n)."""
        return y - matvec(self._basis, rmatvec(self._basis, y) - self._offset)


def _check_independent(triangle: Tensor) -> None:
    """Raise where a diagonal entry of R vanishes beside its column, which is as long as A's row."""
    part = triangle.diagonal(dim1=-2, dim2=-1).abs()
    limit = _DEPENDENT * triangle.shape[-1] * torch.finfo(triangle.dtype).eps
    dependent = ~(part > limit * triangle.norm(dim=-2))
    if not bool(dependent.any()):
        return
    where = ""
    if dependent.ndim == 2:
        samples = dependent.any(-1).nonzero().flatten().tolist()
        where = f" in samples {name_samples(samples)}"
        dependent = dependent.any(0)
    rows = name_samples(dependent.nonzero().flatten().tolist())
    raise ProblemError(
        f"A: rows {rows} depend linearly on the rows before them{where}, expected independent rows. "
        "Remove those that follow from the others, or keep A and b as rows of a quadratic program."
    )


def _like(value: Tensor | float | None, y: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else y.new_full((), math.nan if value is None else value)


def _column(value: Scalar, y: Tensor) -> Tensor:
    """Return () or (B, 1), to broadcast against (B, n)."""
    tensor = _like(value, y)
    return tensor.unsqueeze(-1) if tensor.ndim else tensor
