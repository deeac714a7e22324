"""How constraints become Clarabel's Ax + s = b with s in a cone, and its duals become ours.

A row ½xᵀPx + qᵀx <= r with P = FᵀF is the second-order cone constraint ‖(Fx, t - ½)‖ <= t + ½ of
t = r - qᵀx, for it says ‖Fx‖² <= 2t. With s = (t + ½, Fx, t - ½) the dual of the cone is a multiple
z = μ(s₀, -s₁, -s₂) at a solution, so that Aᵀz = q(z₀ + z₂) - Fᵀz₁ = μ(Px + q): the multiplier of the row
is μ = z₀ + z₂.

Source: Lobo, Vandenberghe, Boyd, Lebret, "Applications of second-order cone programming", Linear
Algebra and its Applications 284 (1998), 193-228.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import clarabel
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, identity, vstack

from foldcore import SampleData

from .polish import Points, Polisher

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Limits:
    """The right-hand sides of one sample, and which of them are there.

    A variable whose bounds coincide has an equality: two inequalities would leave no interior.
    """

    b: Floats
    h: Floats
    lower: Floats
    upper: Floats
    r: Floats

    @classmethod
    def of(cls, data: SampleData) -> Limits:
        return cls(
            b=data.vector("b", 0, 0.0),
            h=data.vector("h", 0, np.inf),
            lower=data.vector("lower", data.n, -np.inf),
            upper=data.vector("upper", data.n, np.inf),
            r=data.vector("quadratic_r", 0, np.inf),
        )

    @cached_property
    def contradict(self) -> bool:
        """Whether no x can satisfy them, whatever the matrices are."""
        empty = (self.lower > self.upper) | (self.lower == np.inf) | (self.upper == -np.inf)
        return bool(empty.any() or (self.h == -np.inf).any() or (self.r == -np.inf).any())

    def present(self) -> tuple[Bools, Bools, Bools, Bools, Bools]:
        """Return masks of the fixed variables, rows of G, upper and lower bounds, quadratic rows."""
        fixed = self.lower == self.upper
        return (
            fixed,
            self.h < np.inf,
            (self.upper < np.inf) & ~fixed,
            (self.lower > -np.inf) & ~fixed,
            self.r < np.inf,
        )


@dataclass(frozen=True)
class QuadraticRow:
    """A convex quadratic row divided by ``size``, so that its entries are about 1.

    Attributes:
        factor: F with FᵀF = P/size, sparse. Shape (k, n).
        linear: q/size. Shape (n,).
    """

    factor: Any
    linear: Floats
    size: float


class Rows:
    """The rows [A; fixed; G; upper; -lower; cones] of a set of matrices and a set of limits."""

    def __init__(
        self, data: SampleData, limits: Limits, quadratic_rows: tuple[QuadraticRow, ...]
    ) -> None:
        present = limits.present()
        self._fixed, self._linear, self._above, self._below, self._quadratic = (
            np.flatnonzero(mask) for mask in present
        )
        self._n, self._m, self._k = data.n, limits.h.size, limits.r.size
        unit = identity(data.n, format="csr")
        chosen = [quadratic_rows[i] for i in self._quadratic]
        blocks = [
            data.sparse("A", limits.b.size),
            unit[self._fixed],
            data.sparse("G", limits.h.size).tocsr()[self._linear],
            unit[self._above],
            -unit[self._below],
            *(_cone(row) for row in chosen),
        ]
        self.matrix = csc_matrix(vstack(blocks, format="csc"))
        self._ends = np.cumsum([block.shape[0] for block in blocks])
        self._first = self._ends[4:-1]
        self._last = self._ends[5:] - 1
        self._sizes = np.array([row.size for row in chosen])

    def cones(self) -> list[Any]:
        """Return Clarabel's cones in the order of the rows."""
        zero, nonnegative = int(self._ends[1]), int(self._ends[4] - self._ends[1])
        cones: list[Any] = []
        if zero:
            cones.append(clarabel.ZeroConeT(zero))
        if nonnegative:
            cones.append(clarabel.NonnegativeConeT(nonnegative))
        dimensions = (self._last - self._first + 1).tolist()
        return cones + [clarabel.SecondOrderConeT(dimension) for dimension in dimensions]

    def right_hand_side(self, limits: Limits) -> Floats:
        side = np.zeros(self.matrix.shape[0])
        side[: self._ends[4]] = np.concatenate(
            [
                limits.b,
                limits.upper[self._fixed],
                limits.h[self._linear],
                limits.upper[self._above],
                -limits.lower[self._below],
            ]
        )
        scaled = limits.r[self._quadratic] / self._sizes
        side[self._first], side[self._last] = scaled + 0.5, scaled - 0.5
        return side

    def points(self, x: Floats, z: Floats) -> Points:
        """Return x (B, n) with the multipliers that Clarabel's z (B, rows) stands for."""
        equalities, end = self._ends[1], self._ends[4]
        cones = np.maximum((z[:, self._first] + z[:, self._last]) / self._sizes, 0.0)
        rows = np.concatenate([z[:, equalities:end], cones], -1)
        return Points(x, z[:, :equalities], rows)

    def duals(self, points: Points) -> dict[str, Floats]:
        """Return the multipliers in foldcore's order, one row per sample."""
        p, (above, below, cones) = self._ends[0], self._ends[2:5] - self._ends[1]
        found, batch = points.inequality, len(points.x)
        inequality = np.zeros((batch, self._m + self._k))
        lower, upper = np.zeros((2, batch, self._n))
        inequality[:, self._linear] = found[:, :above]
        inequality[:, self._m + self._quadratic] = found[:, cones:]
        upper[:, self._above], lower[:, self._below] = found[:, above:below], found[:, below:cones]
        if self._fixed.size:
            fixed = points.equality[:, p:]
            upper[:, self._fixed] = np.maximum(fixed, 0)
            lower[:, self._fixed] = np.maximum(-fixed, 0)
        return {
            "equality": points.equality[:, :p],
            "inequality": inequality,
            "lower": lower,
            "upper": upper,
        }

    def polisher(self, data: SampleData, side: Floats, limits: Limits) -> Polisher:
        """Return the problem in dense form."""
        equalities, end = int(self._ends[1]), int(self._ends[4])
        rows, n = self.matrix[:end].toarray(), self._n
        chosen = self._quadratic
        return Polisher(
            P=np.array(data.dense("P", n)),
            E=rows[:equalities],
            e=side[:equalities],
            L=rows[equalities:],
            l=side[equalities:end],
            hessians=np.asarray(data.fields["quadratic_P"])[chosen],
            vectors=np.asarray(data.fields["quadratic_q"])[chosen],
            r=limits.r[chosen],
        )


def _cone(row: QuadraticRow) -> Any:
    linear = csc_matrix(row.linear[None])
    return vstack([linear, -row.factor, linear], format="csc")
