"""One sample's program as the numpy functions that scipy calls."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldcore import Duals, SmoothProgram, kkt_report

Floats = NDArray[np.float64]

WORST = 1e10
"""What a scaled value outside a function's domain counts as."""
FEASIBLE = 1e-6
"""Largest violation relative to 1 + ‖x‖∞ of a point that counts as feasible."""


class EvaluationError(Exception):
    """A user's function cannot be evaluated at a point that the method has to use."""


class UnboundedError(Exception):
    """A feasible point with an objective below every bound was found."""


class Evaluation:
    """Values and derivatives of a program of batch 1 at points x (n,), in float64.

    Rows are [h; g], without those whose limit is +inf. The objective and every row are divided by
    the largest entry of their gradient at the starting point, where that exceeds 1: neither method
    scales by itself, and slsqp fails on objectives of size 1e6. A trial value that is NaN or inf counts as
    very bad, so that line searches and trust regions turn back into the domain; a derivative that
    is not finite has no such remedy and raises.

    Args:
        program: Batch 1, float64.
        unbounded_below: See ``ScipyConfig``.
    """

    def __init__(self, program: SmoothProgram, unbounded_below: float) -> None:
        self._program = program
        self._floor = -unbounded_below
        self.n = program.n
        self.n_equality = program.n_equality
        self.present = _present_rows(program)
        self.lower = _bound(program.lower, self.n, -np.inf)
        self.upper = _bound(program.upper, self.n, np.inf)
        self.scale = 1.0
        self._row_scale = np.ones(self.rows)

    @property
    def rows(self) -> int:
        """Number of equality rows and present inequality rows."""
        return self.n_equality + int(self.present.sum())

    @property
    def pinned(self) -> bool:
        """Whether the bounds leave one point."""
        return bool((self.lower == self.upper).all())

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    def begin(self, x: Floats) -> None:
        """Check a starting point and scale by it.

        Raises:
            EvaluationError: If a value or derivative there is not finite.
        """
        self.scale, self._row_scale = 1.0, np.ones(self.rows)
        if not (np.isfinite(self.value(x)) and np.isfinite(self._raw_rows(x)).all()):
            raise EvaluationError("the objective or a constraint is NaN or inf at the start")
        scale = max(1.0, float(np.abs(self.gradient(x)).max()))
        row_scale = np.abs(self.jacobian(x)).max(axis=1, initial=1.0)
        self.scale, self._row_scale = scale, row_scale

    def value(self, x: Floats) -> float:
        """Return the objective as it is."""
        with torch.no_grad():
            return float(self._program.objective(self._tensor(x)))

    def objective(self, x: Floats) -> float:
        """Raises: UnboundedError: See there."""
        value = self.value(x)
        if value < self._floor and self.violation(x) <= FEASIBLE:
            raise UnboundedError(f"the objective is {value:.1e} at a feasible point")
        return value / self.scale if np.isfinite(value) else WORST

    def gradient(self, x: Floats) -> Floats:
        with torch.no_grad():
            value = self._program.gradient(self._tensor(x))
        return _checked("the objective's gradient", _first(value, 1)) / self.scale

    def hessian(self, x: Floats) -> Floats:
        with torch.no_grad():
            value = self._program.hessian(self._tensor(x))
        return _checked("the objective's Hessian", _first(value, 2)) / self.scale

    def constraints(self, x: Floats) -> Floats:
        """Return [h; g], (rows,)."""
        rows = self._raw_rows(x)
        return np.where(np.isfinite(rows), rows / self._row_scale, WORST)

    def jacobian(self, x: Floats) -> Floats:
        """Return the derivative of ``constraints``, (rows, n)."""
        point = self._tensor(x)
        with torch.no_grad():
            equality = _first(self._program.equality_jacobian(point), 2)
            inequality = _first(self._program.inequality_jacobian(point), 2)
        rows = np.concatenate([equality, inequality[self.present]])
        return _checked("the constraints' Jacobian", rows) / self._row_scale[:, None]

    def constraint_hessian(self, x: Floats, weights: Floats) -> Floats:
        """Return the second derivative of weightsᵀ constraints, (n, n)."""
        equality, inequality = self._split(weights / self._row_scale)
        unused = torch.zeros(1, self.n, dtype=torch.float64)
        duals = Duals(self._tensor(equality), self._tensor(inequality), unused, unused)
        with torch.no_grad():
            value = self._program.constraint_hessian(self._tensor(x), duals)
        return _checked("the constraints' Hessian", _first(value, 2))

    def multipliers(self, rows: Floats) -> tuple[Floats, Floats]:
        """Return multipliers of ``constraints`` as those of h (p,) and g (m,), 0 for absent rows."""
        return self._split(rows / self._row_scale * self.scale)

    def _split(self, rows: Floats) -> tuple[Floats, Floats]:
        inequality = np.zeros(self.present.size)
        inequality[self.present] = rows[self.n_equality :]
        return rows[: self.n_equality], inequality

    def violations(self, x: Floats) -> Floats:
        """Return h and the positive part of g, scaled, (rows,)."""
        rows = self.constraints(x)
        rows[self.n_equality :] = np.maximum(rows[self.n_equality :], 0.0)
        return rows

    def violation(self, x: Floats) -> float:
        """Return the largest violation of a row or bound relative to 1 + ‖x‖∞."""
        outside = np.maximum(self.lower - x, x - self.upper).max(initial=0.0)
        inside = np.abs(self.violations(x)).max(initial=0.0)
        return float(max(inside, outside) / (1 + np.abs(x).max()))

    def kkt_residual(self, x: Floats) -> float:
        """Return the scaled KKT residual at x, with the multipliers that fit it best."""
        return float(kkt_report(self._program, self._tensor(x))[0].residual)

    def _raw_rows(self, x: Floats) -> Floats:
        point = self._tensor(x)
        with torch.no_grad():
            equality = _first(self._program.equality(point), 1)
            inequality = _first(self._program.inequality(point), 1)
        return np.concatenate([equality, inequality[self.present]])

    def _tensor(self, x: Floats) -> Tensor:
        # A copy: scipy goes on to write into its arrays.
        return torch.tensor(x, dtype=torch.float64, device=self._program.device).unsqueeze(0)


def _present_rows(program: SmoothProgram) -> NDArray[np.bool_]:
    """Return which rows of g have a limit, (m,)."""
    data = program.data
    limits = [
        torch.zeros(count, dtype=torch.float64) if limit is None else limit.reshape(-1)
        for limit, count in (
            (data.h, data.n_linear),
            (data.quadratic_r, data.n_quadratic),
            (None, program.function_rows[1]),
        )
    ]
    return np.concatenate([limit.detach().cpu().numpy() < np.inf for limit in limits])


def _bound(tensor: Tensor | None, n: int, missing: float) -> Floats:
    return np.full(n, missing) if tensor is None else _first(tensor, 1)


def _first(tensor: Tensor, dims: int) -> Floats:
    """Return the only sample's value, of that many dimensions, shared or not."""
    array: Floats = tensor.detach().cpu().numpy()
    return array if array.ndim == dims else array[0]


def _checked(what: str, value: Floats) -> Floats:
    if not np.isfinite(value).all():
        raise EvaluationError(f"{what} is NaN or inf at a point that the method reached")
    return value
