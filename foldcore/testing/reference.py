"""Independent gradients of a QP's solution: the implicit function theorem on its KKT conditions.

Written in numpy for one sample, sharing no code with any update rule, so that folded gradients can
be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class QPReference:
    """Exact solution of one strictly convex QP on a known active set, and gradients through it.

    Attributes:
        x: Solution (n,).
        free_directions: Number of variables minus number of active rows.
        strictness: Smallest multiplier of an active inequality or slack of an inactive one.
    """

    x: Array
    free_directions: int
    strictness: float
    _data: dict[str, Array]
    _rows: Array
    _multipliers: Array
    _owners: list[tuple[str, int, float]]

    @staticmethod
    def from_guess(data: dict[str, Array], guess: Array, tolerance: float = 1e-6) -> QPReference:
        """Refine a solution that is accurate enough to tell the active set.

        Args:
            data: Any of P, q, A, b, G, h, lower, upper; P (n, n) is symmetrised.
            guess: Approximate solution (n,).
            tolerance: Slack below which an inequality counts as active.

        Raises:
            ValueError: If the active set yields no KKT point: the guess is no solution.
        """
        n = guess.size
        hessian = data.get("P", np.zeros((n, n)))
        hessian = (hessian + hessian.T) / 2
        rows, right, owners = _active_rows(data, guess, tolerance)
        k = len(owners)
        matrix = np.block([[hessian, rows.T], [rows, np.zeros((k, k))]])
        solved = np.linalg.solve(matrix, np.concatenate([-data.get("q", np.zeros(n)), right]))
        x, multipliers = solved[:n], solved[n:]
        signs = [m for m, (field, _, _) in zip(multipliers, owners, strict=True) if field != "A"]
        slacks = _inactive_slacks(data, x, owners)
        strictness = float(min([*signs, *slacks], default=np.inf))
        if strictness < -1e-9:
            raise ValueError(f"reference: the guess tells a wrong active set ({strictness:.1e})")
        return QPReference(x, n - k, strictness, data, rows, multipliers, owners)

    def gradients(self, cotangent: Array) -> dict[str, Array]:
        """Return the gradient of cotangentᵀx* for every field of the data.

        With K = [[P, Cᵀ], [C, 0]] on the active rows Cx = d and K (u, w) = (cotangent, 0):
        dP = -sym(u xᵀ), dq = -u, dC_i = -(λ_i u + w_i x), dd_i = w_i.
        """
        n, k = self.x.size, len(self._owners)
        hessian = self._data.get("P", np.zeros((n, n)))
        matrix = np.block(
            [[(hessian + hessian.T) / 2, self._rows.T], [self._rows, np.zeros((k, k))]]
        )
        solved = np.linalg.solve(matrix, np.concatenate([cotangent, np.zeros(k)]))
        u, w = solved[:n], solved[n:]
        found = {name: np.zeros_like(value) for name, value in self._data.items()}
        if "P" in found:
            outer = np.outer(u, self.x)
            found["P"] = -(outer + outer.T) / 2
        if "q" in found:
            found["q"] = -u
        partner = {"A": "b", "G": "h"}
        for i, (field, index, sign) in enumerate(self._owners):
            if field in partner:
                found[field][index] = -(self._multipliers[i] * u + w[i] * self.x)
                found[partner[field]][index] = w[i]
            else:
                found[field][index] += sign * w[i]
        return found


def _active_rows(
    data: dict[str, Array], x: Array, tolerance: float
) -> tuple[Array, Array, list[tuple[str, int, float]]]:
    n = x.size
    rows: list[Array] = []
    right: list[float] = []
    owners: list[tuple[str, int, float]] = []
    for i in range(len(data.get("b", ()))):
        rows.append(data["A"][i])
        right.append(float(data["b"][i]))
        owners.append(("A", i, 1.0))
    for i in range(len(data.get("h", ()))):
        if data["h"][i] - data["G"][i] @ x <= tolerance:
            rows.append(data["G"][i])
            right.append(float(data["h"][i]))
            owners.append(("G", i, 1.0))
    for field, sign in (("lower", -1.0), ("upper", 1.0)):
        for i in range(len(data.get(field, ()))):
            if sign * (data[field][i] - x[i]) <= tolerance:
                row = np.zeros(n)
                row[i] = sign
                rows.append(row)
                right.append(sign * float(data[field][i]))
                owners.append((field, i, sign))
    return np.array(rows).reshape(-1, n), np.array(right), owners


def _inactive_slacks(
    data: dict[str, Array], x: Array, owners: list[tuple[str, int, float]]
) -> list[float]:
    active = {(field, index) for field, index, _ in owners}
    slacks = [
        float(data["h"][i] - data["G"][i] @ x)
        for i in range(len(data.get("h", ())))
        if ("G", i) not in active
    ]
    for field, sign in (("lower", -1.0), ("upper", 1.0)):
        slacks.extend(
            float(sign * (data[field][i] - x[i]))
            for i in range(len(data.get(field, ())))
            if (field, i) not in active
        )
    return slacks
