"""Small strictly convex QPs solved to rounding, and an inner fold made of that.

The kit needs both without any plugin: rules have inner problems, and those are QPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from ...errors import UnsupportedError
from ...fold.call.inputs import Signature, collect
from ...numerics.products import to_dense
from ...numerics.solving import solve_checked
from ...problem.parametric import ParametricProblem
from ...program.program import SmoothProgram
from ...solution import Duals, Solution, Status

_Floats = NDArray[np.float64]

_INFEASIBLE = 1e-10
"""Residual of the least-distance problem below which its constraints contradict each other."""


def solve_exactly(program: SmoothProgram) -> Solution:
    """Solve a strictly convex QP, differentiably in its data at strictly complementary solutions.

    The active set is found per sample by the least-distance problem, one non-negative least
    squares; the KKT system of that active set is then solved on the graph. Source: Lawson and
    Hanson, Solving Least Squares Problems (1974), chapter 23.

    Args:
        program: A QP with P positive definite; any number of samples.

    Returns:
        primal and duals; INFEASIBLE or NUMERICAL samples hold zeros without gradient.

    Raises:
        UnsupportedError: If the program is not a QP.
    """
    rows = _Rows.of(program)
    active = torch.zeros(program.batch, rows.matrix.shape[-2], dtype=torch.bool)
    status = []
    for i in range(program.batch):
        found, outcome = _active_set(rows, i)
        status.append(outcome)
        active[i] = torch.from_numpy(found)
    x, multipliers = _solve_active(rows, active, torch.tensor([s.ok for s in status]))
    return Solution(x, tuple(status), rows.duals(program, multipliers))


@dataclass(frozen=True)
class _Rows:
    """All constraints as Cx <= d, the first ``n_equality`` as Cx = d; absent ones are 0x <= 1."""

    hessian: Tensor
    linear: Tensor
    matrix: Tensor
    right: Tensor
    n_equality: int

    @classmethod
    def of(cls, program: SmoothProgram) -> _Rows:
        data, batch, n = program.data, program.batch, program.n
        if program.quadratic is None or data.P is None or data.n_quadratic:
            raise UnsupportedError("solve_exactly: the program is not a QP; give it one.")
        like = to_dense(data.P)
        eye = torch.eye(n, dtype=like.dtype, device=like.device)
        blocks: list[tuple[Tensor, Tensor]] = []
        for matrix, right in ((data.A, data.b), (data.G, data.h)):
            if matrix is not None and right is not None:
                blocks.append((to_dense(matrix), right))
        for bound, sign in ((data.lower, -1.0), (data.upper, 1.0)):
            if bound is not None:
                blocks.append((sign * eye, sign * bound))
        matrices = [like.new_zeros(batch, 0, n)]
        rights = [like.new_zeros(batch, 0)]
        for block, bound in blocks:
            present = bound.isfinite().unsqueeze(-1)
            matrices.append((block * present).expand(batch, -1, n))
            rights.append(torch.where(present.squeeze(-1), bound, 1.0).expand(batch, -1))
        linear = like.new_zeros(n) if data.q is None else data.q
        return cls(
            like.expand(batch, n, n),
            linear.expand(batch, n),
            torch.cat(matrices, dim=-2),
            torch.cat(rights, dim=-1),
            program.n_equality,
        )

    def duals(self, program: SmoothProgram, multipliers: Tensor) -> Duals:
        zero = multipliers.new_zeros(program.batch, program.n)
        sizes = [
            program.n_equality,
            program.n_inequality,
            0 if program.lower is None else program.n,
            0 if program.upper is None else program.n,
        ]
        equality, inequality, lower, upper = torch.split(multipliers, sizes, dim=-1)
        return Duals(
            equality=equality,
            inequality=inequality,
            lower=lower if lower.shape[-1] else zero,
            upper=upper if upper.shape[-1] else zero,
        )


def _active_set(rows: _Rows, index: int) -> tuple[NDArray[np.bool_], Status]:
    """Return which rows bind at the solution of one sample.

    With P = LLᵀ and y = Lᵀx + L⁻¹q the QP is min ‖y‖² s.t. -(C L⁻ᵀ) y >= -(d + C P⁻¹ q).
    """
    hessian, linear, matrix, right = (
        _array(value[index]) for value in (rows.hessian, rows.linear, rows.matrix, rows.right)
    )
    n_equality = rows.n_equality
    nothing = np.zeros(len(right), dtype=bool)
    try:
        factor = np.linalg.cholesky((hessian + hessian.T) / 2)
    except np.linalg.LinAlgError:
        return nothing, Status.NONCONVEX
    centre = np.linalg.solve(factor, linear)
    turned = np.linalg.solve(factor, matrix.T).T
    limit = right + turned @ centre
    system = np.concatenate([-turned, turned[:n_equality]])
    ends = np.concatenate([-limit, limit[:n_equality]])
    size = np.maximum(np.abs(system).max(axis=1, initial=0), np.abs(ends)) + 1e-300
    stacked = np.concatenate([system, ends[:, None]], axis=1).T / size
    target = np.zeros(len(stacked))
    target[-1] = 1.0
    weights, distance = nnls(stacked, target)
    if distance <= _INFEASIBLE:
        return nothing, Status.INFEASIBLE
    active = weights[: len(right)] > 0
    active[:n_equality] = True
    return active, Status.OPTIMAL


def _array(value: Tensor) -> _Floats:
    array: _Floats = value.detach().double().numpy()
    return array


def _solve_active(rows: _Rows, active: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and the multipliers of all rows, on the graph of the data.

    Rows that do not bind keep the equation multiplier = 0, so that all samples share one shape.
    """
    held = (active & good[:, None]).to(rows.right.dtype)
    n = rows.hessian.shape[-1]
    eye = torch.eye(n, dtype=held.dtype)
    hessian = torch.where(good[:, None, None], rows.hessian, eye)
    masked = held.unsqueeze(-1) * rows.matrix
    top = torch.cat([(hessian + hessian.mT) / 2, masked.mT], dim=-1)
    bottom = torch.cat([masked, torch.diag_embed(held - 1)], dim=-1)
    linear = torch.where(good[:, None], rows.linear, torch.zeros_like(rows.linear))
    right = torch.cat([-linear, held * rows.right], dim=-1)
    solved, _ = solve_checked(torch.cat([top, bottom], dim=-2), right)
    return solved[:, :n], solved[:, n:]


class ExactFold:
    """An inner fold whose problem is a strictly convex QP, solved to rounding; see InnerFold."""

    def __init__(self, problem: ParametricProblem) -> None:
        self._problem = problem

    def solve_inner(self, values: Mapping[str, Tensor], *, duals: bool = False) -> Solution:
        """Solve for B samples, on the graph of ``values``."""
        inputs = collect(
            Signature.of(self._problem.params), values, self._problem.constants, "inner fold"
        )
        return solve_exactly(self._problem.bind(inputs.values, inputs.batch))
