"""Gradients of a known solution by the implicit function theorem on the KKT conditions.

Computed densely, sample after sample, in float64, and sharing no code with any update rule or
adjoint solver, so that theirs can be compared with them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...program.lowering import Lowering
from ...program.program import SmoothProgram
from ...solution import Duals
from .known_problem import KnownProblem

_ACTIVE = 1e-9


def has_exact_gradients(known: KnownProblem) -> bool:
    """Whether the problem has a KKT system: its nonsmooth terms, if any, have rows."""
    return not known.problem.lowered_structure.without_rows


def exact_gradients(known: KnownProblem, cotangent: Tensor) -> dict[str, Tensor]:
    """Return the gradients of Σ cotangent·x* with respect to the values of all params.

    With F(x, λ, θ) = (∇L, c) on the active constraints c = 0, K = ∂F/∂(x, λ) = [[∇²L, Cᵀ], [C, 0]]
    and K (u, w) = (cotangent, 0), the gradient is -(u, w)ᵀ ∂F/∂θ, here by autograd of (u, w)ᵀF.

    Args:
        known: Its solution must be strictly complementary with independent active constraints.
        cotangent: dL/dx*. Shape (B, n).
    """
    leaves = {k: v.clone().requires_grad_() for k, v in known.values.items()}
    lowering = Lowering(known.bind(values=leaves))
    program = lowering.program
    x = lowering.complete(known.primal)
    duals = _multipliers(program, x, known.duals)
    extended = torch.cat(
        [cotangent, cotangent.new_zeros(len(x), x.shape[-1] - known.problem.n)], -1
    )
    residual = _active_residual(program, x, duals)
    with torch.no_grad():
        weights = _adjoint_weights(program, x, duals, residual, extended)
    total = sum((weight * part).sum() for weight, part in zip(weights, residual, strict=True))
    gradients = torch.autograd.grad(
        -torch.as_tensor(total), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, gradients, strict=True))


def _multipliers(program: SmoothProgram, x: Tensor, known: Duals | None) -> Duals:
    """Return the known multipliers, or those that stationarity determines on the active rows."""
    if known is not None:
        return known
    with torch.no_grad():
        rows, members = _stacked_jacobian(program, x)
        solved = torch.zeros(x.shape[0], rows.shape[-2], dtype=x.dtype)
        gradient = program.gradient(x)
        for i in range(x.shape[0]):
            held = members[i]
            system = rows[i, held].mT
            solved[i, held] = torch.linalg.lstsq(system, -gradient[i, :, None]).solution[:, 0]
    return _split(program, solved)


def _split(program: SmoothProgram, stacked: Tensor) -> Duals:
    sizes = [program.n_equality, program.n_inequality, program.n, program.n]
    equality, inequality, lower, upper = torch.split(stacked, sizes, dim=-1)
    return Duals(equality=equality, inequality=inequality, lower=lower, upper=upper)


def _stacked_jacobian(program: SmoothProgram, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of all constraints (B, p + m + 2n, n) and which of them bind."""
    batch, n = x.shape
    eye = torch.eye(n, dtype=x.dtype).expand(batch, n, n)
    jacobian = torch.cat(
        [
            program.equality_jacobian(x).expand(batch, -1, n),
            program.inequality_jacobian(x).expand(batch, -1, n),
            -eye,
            eye,
        ],
        dim=-2,
    )
    equality = torch.ones(batch, program.n_equality, dtype=torch.bool)
    none = torch.zeros_like(x, dtype=torch.bool)
    lower = none if program.lower is None else x - program.lower < _ACTIVE
    upper = none if program.upper is None else program.upper - x < _ACTIVE
    # Both bounds of a pinned variable are one constraint.
    upper = upper & ~lower
    return jacobian, torch.cat([equality, program.inequality(x) > -_ACTIVE, lower, upper], dim=-1)


def _active_residual(program: SmoothProgram, x: Tensor, duals: Duals) -> list[Tensor]:
    """Return ∇L and all constraints' values at the solution, on the graph of the parameters."""
    zero = torch.zeros_like(x)
    lower = zero if program.lower is None else program.lower - x
    upper = zero if program.upper is None else x - program.upper
    return [
        program.lagrangian_gradient(x, duals),
        program.equality(x),
        program.inequality(x),
        lower.expand_as(x),
        upper.expand_as(x),
    ]


def _adjoint_weights(
    program: SmoothProgram,
    x: Tensor,
    duals: Duals,
    residual: list[Tensor],
    cotangent: Tensor,
) -> list[Tensor]:
    """Return u, and w by blocks of constraints, 0 where they do not bind."""
    batch, n = x.shape
    hessian = program.lagrangian_hessian(x, duals).expand(batch, n, n)
    rows, members = _stacked_jacobian(program, x)
    u, w = torch.zeros_like(x), torch.zeros(batch, rows.shape[-2], dtype=x.dtype)
    for i in range(batch):
        active = rows[i, members[i]]
        k = len(active)
        system = torch.cat(
            [
                torch.cat([hessian[i], active.mT], dim=-1),
                torch.cat([active, active.new_zeros(k, k)], dim=-1),
            ]
        )
        solved = torch.linalg.solve(system, torch.cat([cotangent[i], cotangent.new_zeros(k)]))
        u[i], w[i, members[i]] = solved[:n], solved[n:]
    parts = torch.split(w, [part.shape[-1] for part in residual[1:]], dim=-1)
    return [u, *parts]


def comparable(known: KnownProblem, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return gradients in which what belongs to both bounds of a pinned variable is added up.

    Where lower and upper bound coincide only the sum of their gradients is determined.
    """
    found = dict(gradients)
    if {"lower", "upper"} <= set(found):
        pinned = known.values["lower"] == known.values["upper"]
        found["lower"] = torch.where(pinned, found["lower"] + found["upper"], found["lower"])
        found["upper"] = torch.where(pinned, torch.zeros_like(found["upper"]), found["upper"])
    return found
