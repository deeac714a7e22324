"""Newton steps on the optimality conditions of a QCQP with its active set fixed.

An interior-point method ends near the cones' boundary, off the central path by about the square root
of the gap: a gap of 1e-9 leaves a stationarity residual of 1e-5. Newton's method on

    Px + q + Eᵀy + Jᵀw = 0,  Ex = e,  c(x) = 0

for the active inequalities c with Jacobian J converges quadratically from there under strict
complementarity and independent active gradients. Source: Nocedal and Wright, Numerical Optimization
(2006), (18.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """x and the multipliers of the equalities and of the inequalities, quadratic rows last."""

    x: Floats
    equality: Floats
    inequality: Floats


@dataclass(frozen=True)
class Polisher:
    """minimise ½xᵀPx + qᵀx  s.t.  Ex = e,  Lx <= l,  ½xᵀP_ix + q_iᵀx <= r_i, all dense.

    Attributes:
        P, E, e, L, l: As above.
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

    def polish(self, q: Floats, point: Point, steps: int, tolerance: float) -> Point:
        """Return the best of the point and of up to ``steps`` Newton iterates from it.

        Args:
            q: Linear term. Shape (n,).
            point: Near a solution.
            steps: Largest number of steps (count).
            tolerance: Residual at which to end, relative to 1 + the largest entry of q.
        """
        tolerance *= 1 + float(np.abs(q).max(initial=0.0))
        state = _State(self, q, point)
        active = point.inequality > state.slack
        for _ in range(steps):
            if state.error <= tolerance:
                break
            try:
                found = _State(self, q, state.step(active))
            except np.linalg.LinAlgError:  # dependent active gradients: nothing to gain
                break
            if not found.error < state.error:
                break
            state = found
        return state.point


class _State:
    """The optimality conditions at a point."""

    def __init__(self, problem: Polisher, q: Floats, point: Point) -> None:
        self.point, self._problem = point, problem
        x, w = point.x, point.inequality
        curved = problem.hessians @ x
        self._jacobian = np.concatenate([problem.L, curved + problem.vectors])
        quadratic = problem.r - (curved / 2 + problem.vectors) @ x
        self.slack = np.concatenate([problem.l - problem.L @ x, quadratic])
        self._gradient = problem.P @ x + q
        self._gap = problem.E @ x - problem.e
        slope = self._gradient + point.equality @ problem.E + w @ self._jacobian
        worst = np.concatenate(
            [np.abs(slope), np.abs(self._gap), -self.slack, -w, np.minimum(self.slack, w)]
        ).max()
        self.error = float(worst) if np.isfinite(worst) else float("inf")

    def step(self, active: NDArray[np.bool_]) -> Point:
        problem, point = self._problem, self.point
        n, p = point.x.size, problem.e.size
        rows = np.concatenate([problem.E, self._jacobian[active]])
        weights = (point.inequality * active)[problem.l.size :]
        system = np.zeros((n + rows.shape[0],) * 2)
        system[:n, :n] = problem.P + (weights @ problem.hessians.reshape(-1, n * n)).reshape(n, n)
        system[:n, n:], system[n:, :n] = rows.T, rows
        # Solved for the new multipliers and not for their change: theirs is the only linear part.
        side = np.concatenate([-self._gradient, -self._gap, self.slack[active]])
        found = np.linalg.solve(system, side)
        inequality = np.zeros(active.size)
        inequality[active] = found[n + p :]
        return Point(point.x + found[:n], found[n : n + p], inequality)
