"""Newton steps on the optimality conditions of QCQPs with their active sets fixed.

An interior-point method ends near the cones' boundary, off the central path by about the square root
of the gap: a gap of 1e-9 leaves a stationarity residual of 1e-5. Newton's method on

    Px + q + Eᵀy + Jᵀw = 0,  Ex = e,  c(x) = 0

for the active inequalities c with Jacobian J converges quadratically from there under strict
complementarity and independent active gradients. Source: Nocedal and Wright, Numerical Optimization
(2006), (18.6).

Products are matrix times vector for each sample: those of a whole batch with a shared matrix would
round differently in batches of different sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_STRIDE = 4
"""Rows by which the systems of a batch differ in size."""


@dataclass(frozen=True)
class Points:
    """x and the multipliers of the equalities and of the inequalities, quadratic rows last.

    Attributes:
        x: (B, n).
        equality, inequality: (B, p), (B, m + k).
    """

    x: Floats
    equality: Floats
    inequality: Floats

    def take(self, chosen: Bools) -> Points:
        return Points(self.x[chosen], self.equality[chosen], self.inequality[chosen])

    def put(self, samples: NDArray[np.intp], points: Points) -> None:
        """Overwrite some samples."""
        for name, rows in vars(points).items():
            vars(self)[name][samples] = rows

    def copy(self) -> Points:
        return Points(self.x.copy(), self.equality.copy(), self.inequality.copy())


@dataclass(frozen=True)
class Polisher:
    """minimise ½xᵀPx + qᵀx  s.t.  Ex = e,  Lx <= l,  ½xᵀP_ix + q_iᵀx <= r_i, all dense.

    Attributes:
        P, E, e, L, l: As above, shared by all samples.
        hessians, vectors, r: P_i (k, n, n), q_i (k, n), r_i (k,).
    """

    P: Floats
    E: Floats
    e: Floats
    L: Floats
    l: Floats  # noqa: E741
    hessians: Floats
    vectors: Floats
    r: Floats

    def polish(self, q: Floats, points: Points, steps: int, tolerance: float) -> Points:
        """Return per sample the best of its point and of up to ``steps`` Newton iterates from it.

        Invariant: a sample's row does not depend, in any bit, on the others.

        Args:
            q: Linear terms. Shape (B, n).
            points: Near solutions.
            steps: Largest number of steps (count).
            tolerance: Residual at which to end, relative to 1 + the largest entry of q.
        """
        limit = tolerance * (1 + np.abs(q).max(-1, initial=0.0))
        best, samples = points.copy(), np.arange(len(q))
        state = _State(self, q, points)
        active = points.inequality > state.slack
        going = ~(state.error <= limit)
        for _ in range(steps):
            samples, q, limit, active = samples[going], q[going], limit[going], active[going]
            if not samples.size:
                break
            before = state.error[going]
            state = _State(self, q, state.take(going).step(active))
            better = state.error < before
            best.put(samples[better], state.points.take(better))
            going = better & ~(state.error <= limit)
        return best


class _State:
    """The optimality conditions at one point per sample."""

    def __init__(self, problem: Polisher, q: Floats, points: Points) -> None:
        self.points, self._problem, self._q = points, problem, q
        x = points.x
        self._curved = (problem.hessians @ x[:, None, :, None])[..., 0]
        quadratic = problem.r - _products(self._curved / 2 + problem.vectors, x)
        self.slack = np.concatenate([problem.l - _products(problem.L, x), quadratic], -1)
        self._gradient = _products(problem.P, x) + q
        self._gap = _products(problem.E, x) - problem.e

    def take(self, chosen: Bools) -> _State:
        if chosen.all():
            return self
        return _State(self._problem, self._q[chosen], self.points.take(chosen))

    @cached_property
    def error(self) -> Floats:
        """The largest residual per sample, inf where it is not finite. Shape (B,)."""
        problem, points, m = self._problem, self.points, self._problem.l.size
        w = points.inequality
        slope = self._gradient + _products(problem.E.T, points.equality)
        slope = slope + _products(problem.L.T, w[:, :m])
        slope = slope + _products((self._curved + problem.vectors).swapaxes(1, 2), w[:, m:])
        parts = [np.abs(slope), np.abs(self._gap), -self.slack, -w, np.minimum(self.slack, w)]
        worst: Floats = np.concatenate(parts, -1).max(-1)
        return np.where(np.isfinite(worst), worst, np.inf)

    def step(self, active: Bools) -> Points:
        """Return the next Newton iterates; NaN where active gradients are dependent."""
        points = self.points
        found = Points(
            np.empty_like(points.x),
            np.empty_like(points.equality),
            np.empty_like(points.inequality),
        )
        # Sizes are rounded up so that few differ; that of a sample is its own affair all the same.
        sizes = np.minimum(-(-active.sum(-1) // _STRIDE) * _STRIDE, active.shape[1])
        for size in np.unique(sizes).tolist():
            same = np.flatnonzero(sizes == size)
            found.put(same, self._step_of(same, active[same], size))
        return found

    def _step_of(self, same: NDArray[np.intp], active: Bools, size: int) -> Points:
        """Return the iterates of samples with up to ``size`` active inequalities each.

        Active rows come first; those that are not have an equation of their own, multiplier = 0.
        """
        problem, x, w = self._problem, self.points.x[same], self.points.inequality[same]
        batch, (p, n), m = same.size, problem.E.shape, problem.l.size
        sample = np.arange(batch)[:, None]
        where = np.argsort(~active, axis=1, kind="stable")[:, :size]
        real = active[sample, where]
        jacobian = np.empty((batch, active.shape[1], n))
        jacobian[:, :m] = problem.L
        jacobian[:, m:] = self._curved[same] + problem.vectors
        system = np.zeros((batch, *(n + p + size,) * 2))
        weights = (w * active)[:, m:]
        flat = problem.hessians.reshape(-1, n * n).T
        system[:, :n, :n] = problem.P + _products(flat, weights).reshape(batch, n, n)
        system[:, n : n + p, :n] = problem.E
        system[:, n + p :, :n] = jacobian[sample, where] * real[:, :, None]
        system[:, :n, n:] = system[:, n:, :n].swapaxes(1, 2)
        diagonal = np.arange(n + p, n + p + size)
        system[:, diagonal, diagonal] = ~real
        # Solved for the new multipliers and not for their change: theirs is the only linear part.
        tight = self.slack[same[:, None], where] * real
        side = np.concatenate([-self._gradient[same], -self._gap[same], tight], -1)
        found = _solved(system, side)
        inequality = np.zeros(active.shape)
        inequality[sample, where] = found[:, n + p :] * real
        return Points(x + found[:, :n], found[:, n : n + p], inequality)


def _products(matrices: Floats, vectors: Floats) -> Floats:
    """Return M v per sample, (m, n) or (B, m, n) times (B, n) -> (B, m), one product at a time."""
    found: Floats = (matrices @ vectors[:, :, None])[..., 0]
    return found


def _solved(systems: Floats, sides: Floats) -> Floats:
    """Solve one system per sample; NaN where it is singular."""
    try:
        found: Floats = np.linalg.solve(systems, sides[:, :, None])[..., 0]
    except np.linalg.LinAlgError:  # of some sample: dependent active gradients, nothing to gain
        if len(systems) == 1:
            return np.full_like(sides, np.nan)
        return np.concatenate(
            [_solved(*one) for one in zip(systems[:, None], sides[:, None], strict=True)]
        )
    return found
