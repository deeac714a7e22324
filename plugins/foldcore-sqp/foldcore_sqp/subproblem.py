"""The quadratic subproblem of an SQP step: its declaration, and its data at a point."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import Param, ProgramStructure, QuadraticProgram, SmoothProgram


def subproblem(structure: ProgramStructure) -> QuadraticProgram:
    """Return min ½dᵀPd + qᵀd s.t. Ad = b, Gd <= h, lower <= d <= upper; every field a parameter.

    Fields without rows are left out. P is declared positive semidefinite, as it is convexified.
    """
    n, p, m = structure.n, structure.n_equality, structure.n_inequality
    fields = {"P": Param(n, n, psd=True), "q": Param(n)}
    if p:
        fields.update(A=Param(p, n), b=Param(p))
    if m:
        fields.update(G=Param(m, n), h=Param(m))
    for name in ("lower", "upper"):
        if getattr(structure.template, name) is not None:
            fields[name] = Param(n)
    return QuadraticProgram(**fields)


def constraint_values(program: SmoothProgram, x: Tensor) -> dict[str, Tensor]:
    """Return the linearised constraints at x (B, n), by the subproblem's parameter names."""
    values: dict[str, Tensor] = {}
    if program.n_equality:
        values["A"], values["b"] = program.equality_jacobian(x), -program.equality(x)
    if program.n_inequality:
        values["G"], values["h"] = program.inequality_jacobian(x), -program.inequality(x)
    if program.lower is not None:
        values["lower"] = program.lower - x
    if program.upper is not None:
        values["upper"] = program.upper - x
    return values


def step_objective(gradient: Tensor, linear: Tensor | None, failed: Tensor | None) -> Tensor:
    """Return q: the gradient, completed by convexification, 0 for samples that failed. (B, n)."""
    q = gradient if linear is None else gradient + linear
    return q if failed is None else torch.where(failed[:, None], torch.zeros_like(q), q)
