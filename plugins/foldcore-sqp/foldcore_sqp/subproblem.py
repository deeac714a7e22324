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


def without_failed(values: dict[str, Tensor], failed: Tensor) -> dict[str, Tensor]:
    """Return the subproblem's data with those of failed samples replaced by one solved by d = 0.

    No inequality is left in them, so that they have neither active nor weakly active rows. Their
    Hessian is definite already.
    """
    mended = dict(values)
    neutral = {"q": 0.0, "b": 0.0, "h": torch.inf, "lower": -torch.inf, "upper": torch.inf}
    for name, value in neutral.items():
        if name in values:
            mended[name] = torch.where(failed[:, None], value, values[name])
    return mended
