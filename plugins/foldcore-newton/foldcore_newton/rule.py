"""One Newton step on the KKT system with the active set held fixed.

With the active set A of a KKT point under LICQ and strict complementarity, the conditions
∇f + Jₕᵀν + J_Aᵀμ_A - λ_lower + λ_upper = 0, h = 0, g_A = 0, x = bound on fixed variables form a smooth
square system. A Newton step from its root stays there to second order, so Φ = ∂U/∂z = 0: the adjoint
needs no product, and Ψ is the implicit function theorem's derivative.

Source: Nocedal and Wright, Numerical Optimization (2006), section 18.1 (Newton on KKT); the
derivative: Amos and Kolter, OptNet (2017), equation (6), restricted to the active set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foldcore import (
    BoundRule,
    Duals,
    FixedPointOperator,
    InnerFold,
    ProgramStructure,
    SmoothProgram,
    Solution,
    UpdateRule,
    ZeroOperator,
    matvec,
    recover_duals,
    rmatvec,
    solve_checked,
)

from .config import NewtonConfig


class NewtonRule(UpdateRule):
    """Newton on the KKT system: Φ = 0, for LP, QP, QCQP and smooth NLP, convex or not."""

    api_version = 1
    config_class = NewtonConfig

    def __init__(self, config: NewtonConfig) -> None:
        self.config: NewtonConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 10.0

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.has_regularizers:
            return "the objective has nonsmooth terms; Newton needs a smooth objective"
        if structure.without_rows:
            return f"{', '.join(structure.without_rows)} has no constraint rows to form a KKT system of"
        return None

    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        return _BoundNewton(program)


@dataclass(frozen=True)
class _Active:
    """Masks of what holds with equality: rows of g (B, m), variables at a bound (B, n)."""

    rows: Tensor
    lower: Tensor
    upper: Tensor


class _BoundNewton(BoundRule):
    """The state is (x, ν, μ, λ_lower, λ_upper), the last two only where there are such bounds."""

    def __init__(self, program: SmoothProgram) -> None:
        self._program = program
        n = program.n
        self._sizes = [
            n,
            program.n_equality,
            program.n_inequality,
            0 if program.lower is None else n,
            0 if program.upper is None else n,
        ]
        # Without inequalities there is one active set, the same for all samples.
        self._shared_by_batch = sum(self._sizes[2:]) == 0
        self._singular: Tensor | None = None

    def _split(self, state: Tensor) -> tuple[Tensor, Duals]:
        x, equality, inequality, lower, upper = torch.split(state, self._sizes, dim=-1)
        zero = torch.zeros_like(x)
        return x, Duals(
            equality=equality,
            inequality=inequality,
            lower=lower if lower.shape[-1] else zero,
            upper=upper if upper.shape[-1] else zero,
        )

    def _join(self, x: Tensor, duals: Duals) -> Tensor:
        parts = [x, duals.equality, duals.inequality]
        if self._sizes[3]:
            parts.append(duals.lower)
        if self._sizes[4]:
            parts.append(duals.upper)
        return torch.cat(parts, dim=-1)

    def initial(self, primal: Tensor | None = None) -> Tensor:
        program = self._program
        if primal is None:
            primal = torch.zeros(
                program.batch, program.n, dtype=program.dtype, device=program.device
            )
        return self._join(primal, program.pad_duals(None))

    def lift(self, solution: Solution) -> Tensor:
        duals = solution.duals
        if duals is None:
            duals = recover_duals(self._program, solution.primal).duals
        return self._join(solution.primal, duals)

    def primal(self, state: Tensor) -> Tensor:
        return state[:, : self._program.n]

    def duals(self, state: Tensor) -> Duals:
        return self._split(state)[1]

    def jacobian(self, state: Tensor) -> FixedPointOperator:
        return ZeroOperator(state)

    def failed(self) -> Tensor | None:
        return self._singular

    def step(self, state: Tensor) -> Tensor:
        x, duals = self._split(state)
        program = self._program
        active = _active(program, x.detach(), duals)
        hessian = program.lagrangian_hessian(x, duals)
        equality, inequality = program.equality_jacobian(x), program.inequality_jacobian(x)
        r_x, r_equality, r_rows = _right_hand_side(program, x, hessian, equality, inequality)
        r_rows = torch.where(active.rows, r_rows, torch.zeros_like(r_rows))
        bound = _bound_values(program, x, active)

        free = (~(active.lower | active.upper)).to(x.dtype)
        rows = active.rows.to(x.dtype)
        if self._shared_by_batch and hessian.ndim == equality.ndim == 2:
            matrix = _kkt_matrix(hessian, equality, inequality, free[:1], rows[:1]).squeeze(0)
        else:
            matrix = _kkt_matrix(hessian, equality, inequality, free, rows)
        right = torch.cat(
            [
                free * (r_x - matvec(hessian, bound)),
                r_equality - matvec(equality, bound),
                active.rows * (r_rows - matvec(inequality, bound)),
            ],
            dim=-1,
        )
        solved, self._singular = solve_checked(matrix, right)
        moved, nu, mu = torch.split(solved, self._sizes[:3], dim=-1)
        x_new = free * moved + bound
        mu = torch.where(active.rows, mu, torch.zeros_like(mu))
        residual = matvec(hessian, x_new) - r_x + rmatvec(equality, nu) + rmatvec(inequality, mu)
        zero = torch.zeros_like(residual)
        multipliers = Duals(
            equality=nu,
            inequality=mu,
            lower=torch.where(active.lower, residual, zero),
            upper=torch.where(active.upper, -residual, zero),
        )
        return self._join(x_new, multipliers)


def _active(program: SmoothProgram, x: Tensor, duals: Duals) -> _Active:
    """Return what is active: a multiplier larger than its slack. Coinciding bounds always are."""
    with torch.no_grad():
        slack = -program.inequality(x)
        none = torch.zeros_like(x, dtype=torch.bool)
        lower, upper = none, none
        if program.lower is not None:
            lower = duals.lower > x - program.lower
        if program.upper is not None:
            upper = duals.upper > program.upper - x
        if program.lower is not None and program.upper is not None:
            pinned = program.lower == program.upper
            lower = lower | (pinned & (duals.lower >= duals.upper))
            upper = (upper | pinned) & ~lower
        return _Active(rows=duals.inequality > slack, lower=lower, upper=upper)


def _right_hand_side(
    program: SmoothProgram, x: Tensor, hessian: Tensor, equality: Tensor, inequality: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Hx - ∇f, Jₕx - h and J_g x - g; for a QP these are -q, b and h themselves."""
    if program.hessian_is_constant:
        data = program.data
        zeros = torch.zeros_like(x)
        return (
            zeros if data.q is None else zeros - data.q,
            x.new_zeros(x.shape[0], 0) if data.b is None else data.b.expand(x.shape[0], -1),
            x.new_zeros(x.shape[0], 0) if data.h is None else data.h.expand(x.shape[0], -1),
        )
    rows = program.inequality(x)
    present = torch.isfinite(rows)
    return (
        matvec(hessian, x) - program.gradient(x),
        matvec(equality, x) - program.equality(x),
        matvec(inequality, x) - torch.where(present, rows, torch.zeros_like(rows)),
    )


def _bound_values(program: SmoothProgram, x: Tensor, active: _Active) -> Tensor:
    values = torch.zeros_like(x)
    if program.lower is not None:
        values = torch.where(active.lower, program.lower, values)
    if program.upper is not None:
        values = torch.where(active.upper, program.upper, values)
    return values


def _kkt_matrix(
    hessian: Tensor, equality: Tensor, inequality: Tensor, free: Tensor, rows: Tensor
) -> Tensor:
    """Return [[FHF + (I-F), FJₕᵀ, FJ_gᵀM], [JₕF, 0, 0], [MJ_gF, 0, -(I-M)]], (B, N, N).

    F and M are the diagonal masks of free variables and active rows: fixed variables and inactive
    rows keep identity equations, so that all samples share one shape.
    """
    batch, n = free.shape
    curved = free.unsqueeze(-1) * hessian * free.unsqueeze(-2) + torch.diag_embed(1 - free)
    upper = equality * free.unsqueeze(-2)
    lower = rows.unsqueeze(-1) * inequality * free.unsqueeze(-2)
    jacobian = torch.cat([upper.expand(batch, -1, n), lower.expand(batch, -1, n)], dim=-2)
    p, m = equality.shape[-2], inequality.shape[-2]
    corner = torch.diag_embed(torch.cat([rows.new_zeros(batch, p), rows - 1], dim=-1))
    top = torch.cat([curved, jacobian.mT], dim=-1)
    bottom = torch.cat([jacobian, corner], dim=-1)
    return torch.cat([top, bottom], dim=-2).reshape(batch, n + p + m, n + p + m)
