"""Newton steps on the optimality conditions of a QCQP with its active set fixed.

An interior-point method ends near the cones' boundary, off the central path by about the square root
of the gap: a gap of 1e-9 leaves a stationarity residual of 1e-5. Newton's method on

    Px + q + Jᵀy = 0,  c(x) = 0

for the active rows c with Jacobian J converges quadratically from there under strict complementarity
and independent active gradients. Source: Nocedal and Wright, Numerical Optimization (2006), (18.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldcore import SampleData

from .rows import Limits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A point with its multipliers in foldcore's signs; inequality has quadratic rows last."""

    x: Floats
    equality: Floats
    inequality: Floats
    lower: Floats
    upper: Floats


class Polisher:
    """The dense data of one sample's QCQP."""

    def __init__(self, data: SampleData, limits: Limits) -> None:
        n, k = data.n, limits.r.size
        self._limits = limits
        self._P, self._q = data.dense("P", n), data.vector("q", n, 0.0)
        self._A, self._G = data.dense("A", limits.b.size), data.dense("G", limits.h.size)
        self._hessians = np.reshape(np.asarray(data.fields["quadratic_P"]), (k, n, n))
        self._vectors = np.reshape(np.asarray(data.fields["quadratic_q"]), (k, n))

    def polish(self, point: Point, steps: int, tolerance: float) -> Point:
        """Return the best of the point and of up to ``steps`` Newton iterates from it.

        Args:
            point: Near a solution.
            steps: Largest number of steps (count).
            tolerance: Residual at which to end, relative to 1 + the largest entry of q.
        """
        active = self._active(point)
        best, error = point, self._error(point)
        tolerance *= 1 + float(np.abs(self._q).max(initial=0.0))
        for _ in range(steps):
            if error <= tolerance:
                return best
            try:
                point = self._step(point, active)
            except np.linalg.LinAlgError:  # dependent active gradients: nothing to gain
                return best
            found = self._error(point)
            if not found < error:
                return best
            best, error = point, found
        return best

    def _slacks(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        curved = self._hessians @ x
        quadratic = self._limits.r - curved @ x / 2 - self._vectors @ x
        rows = np.concatenate([self._limits.h - self._G @ x, quadratic])
        return rows, x - self._limits.lower, self._limits.upper - x

    def _active(self, point: Point) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        rows, below, above = self._slacks(point.x)
        fixed = self._limits.lower == self._limits.upper
        bounds = fixed | (point.lower > below) | (point.upper > above)
        return point.inequality > rows, bounds

    def _step(self, point: Point, active: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> Point:
        (rows, bounds), x, n = active, point.x, point.x.size
        jacobian = self._jacobian(x)[rows]
        constraints = np.concatenate([self._A, jacobian, np.eye(n)[bounds]])
        below = point.lower > point.upper
        target = np.where(below, self._limits.lower, self._limits.upper)
        slack = self._slacks(x)[0]
        violation = np.concatenate(
            [self._A @ x - self._limits.b, -slack[rows], (x - target)[bounds]]
        )
        curvature = self._curvature(point.inequality * rows)
        m = constraints.shape[0]
        system = np.zeros((n + m, n + m))
        system[:n, :n], system[:n, n:], system[n:, :n] = curvature, constraints.T, constraints
        # Solved for the new multipliers and not for their change: theirs is the only linear part.
        found = np.linalg.solve(system, -np.concatenate([self._P @ x + self._q, violation]))
        equalities = self._A.shape[0]
        ends = [equalities, equalities + jacobian.shape[0]]
        equality, multipliers, both = np.split(found[n:], ends)
        inequality, lower, upper = np.zeros(rows.size), np.zeros(n), np.zeros(n)
        inequality[rows] = multipliers
        lower[bounds], upper[bounds] = np.maximum(-both, 0.0), np.maximum(both, 0.0)
        return Point(x + found[:n], equality, inequality, lower, upper)

    def _jacobian(self, x: Floats) -> Floats:
        return np.concatenate([self._G, self._hessians @ x + self._vectors])

    def _curvature(self, multipliers: Floats) -> Floats:
        weights = multipliers[self._G.shape[0] :]
        total: Floats = self._P + np.tensordot(weights, self._hessians, axes=1)
        return total

    def _error(self, point: Point) -> float:
        """Return the largest violation of the optimality conditions; inf where not finite."""
        rows, below, above = self._slacks(point.x)
        slope = self._P @ point.x + self._q + self._A.T @ point.equality
        slope += self._jacobian(point.x).T @ point.inequality - point.lower + point.upper
        pairs = [(rows, point.inequality), (below, point.lower), (above, point.upper)]
        parts = [np.abs(slope), np.abs(self._A @ point.x - self._limits.b)]
        for slack, multiplier in pairs:
            parts += [-slack, -multiplier, np.minimum(np.maximum(slack, 0), multiplier)]
        worst = max(float(part.max(initial=0.0)) for part in parts)
        return worst if np.isfinite(worst) else float("inf")
