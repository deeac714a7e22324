"""Linear and quadratic problems made from their solutions: the active set is chosen, q follows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ...interfaces.solver import IterationMap
from ...numerics.eigenvalues import largest_eigenvalue
from ...param import Param
from ...problem.quadratic import QuadraticProgram
from ...program.program import SmoothProgram
from ...solution import Duals
from .known_problem import KnownProblem

_F64 = torch.float64


class Draw:
    """Random tensors of one seed, in float64."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=_F64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self._generator, dtype=_F64)

    def definite(self, *shape: int) -> Tensor:
        """Return symmetric matrices with eigenvalues of at least ½ and moderate condition."""
        factor = self.normal(*shape) / shape[-1] ** 0.5
        matrix: Tensor = factor @ factor.mT + 0.5 * torch.eye(shape[-1], dtype=_F64)
        return matrix


@dataclass(frozen=True)
class Rows:
    """How many constraints there are, and which bind.

    Attributes:
        equality: Rows of A.
        active, inactive: Rows of G that bind and that do not.
        at_lower, at_upper: Variables at their bounds; different ones in each sample.
    """

    equality: int = 0
    active: int = 0
    inactive: int = 0
    at_lower: int = 0
    at_upper: int = 0


def quadratic(
    name: str,
    seed: int,
    rows: Rows,
    *,
    batch: int = 3,
    n: int = 6,
    bounds: bool = True,
    hessian: Tensor | None = None,
    curved: bool = True,
    ball: float = 0.0,
    constant: Collection[str] = (),
    iterated: bool = False,
) -> KnownProblem:
    """Return an LP, QP or QCQP of known solution.

    Args:
        rows: The constraints beside the quadratic row.
        bounds: Whether all variables have both bounds.
        hessian: P; positive definite ones are drawn where None.
        curved: Whether there is a P at all.
        ball: Coefficient of one active quadratic row ½·ball·‖x‖² + aᵀx <= r; 0 for none.
        constant: Matrices that are constants of the problem instead of parameters.
        iterated: Give the projected gradient step as the iteration; for bounds alone.
    """
    draw = Draw(seed)
    fields: dict[str, Tensor] = {}
    x = draw.uniform(-1, 1, batch, n)
    gradient = torch.zeros(batch, n, dtype=_F64)
    if curved:
        drawn = draw.definite(n, n) if "P" in constant else draw.definite(batch, n, n)
        fields["P"] = drawn if hessian is None else hessian
        gradient = gradient + _times(fields["P"], x)
    nu = draw.normal(batch, rows.equality)
    if rows.equality:
        fields["A"] = _matrix(draw, "A" in constant, batch, rows.equality, n)
        fields["b"] = _times(fields["A"], x)
        gradient = gradient + _pull(fields["A"], nu)
    m = rows.active + rows.inactive
    mu = torch.cat(
        [draw.uniform(0.5, 1.5, batch, rows.active), x.new_zeros(batch, rows.inactive)], dim=-1
    )
    if m:
        fields["G"] = _matrix(draw, "G" in constant, batch, m, n)
        slack = torch.cat(
            [x.new_zeros(batch, rows.active), draw.uniform(0.3, 1, batch, rows.inactive)], dim=-1
        )
        fields["h"] = _times(fields["G"], x) + slack
        gradient = gradient + _pull(fields["G"], mu)
    if ball:
        fields["quadratic_P"] = ball * torch.eye(n, dtype=_F64).expand(1, n, n)
        fields["quadratic_q"] = draw.normal(batch, 1, n)
        image = ball * x + fields["quadratic_q"][:, 0]
        fields["quadratic_r"] = (ball * (x * x).sum(-1) / 2 + (image - ball * x).mul(x).sum(-1))[
            :, None
        ]
        weight = draw.uniform(0.2, 0.4, batch, 1)
        gradient = gradient + weight * image
        mu = torch.cat([mu, weight], dim=-1)
    lower, upper = x.new_zeros(batch, n), x.new_zeros(batch, n)
    if bounds:
        lower, upper = _bound(draw, fields, x, rows)
        gradient = gradient - lower + upper
    fields["q"] = -gradient
    declared = {
        field: value
        if field in constant or field == "quadratic_P"
        else Param(*value.shape[1:], psd=field == "P")
        for field, value in fields.items()
    }
    return KnownProblem(
        name,
        QuadraticProgram(**declared),
        {field: value for field, value in fields.items() if isinstance(declared[field], Param)},
        x,
        Duals(equality=nu, inequality=mu, lower=lower, upper=upper),
        unique=hessian is None and ball >= 0,
        iteration=projected_gradient if iterated else None,
    )


def _matrix(draw: Draw, shared: bool, batch: int, rows: int, n: int) -> Tensor:
    return draw.normal(rows, n) if shared else draw.normal(batch, rows, n)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def _pull(matrix: Tensor, weights: Tensor) -> Tensor:
    return (matrix.mT @ weights.unsqueeze(-1)).squeeze(-1)


def _bound(draw: Draw, fields: dict[str, Tensor], x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Add bounds of which some bind; return their multipliers."""
    batch, n = x.shape
    fields["lower"] = x - draw.uniform(0.5, 1, batch, n)
    fields["upper"] = x + draw.uniform(0.5, 1, batch, n)
    lower, upper = x.new_zeros(batch, n), x.new_zeros(batch, n)
    for i in range(batch):
        order = torch.roll(torch.arange(n), i)
        low, high = order[: rows.at_lower], order[rows.at_lower :][: rows.at_upper]
        fields["lower"][i, low], fields["upper"][i, high] = x[i, low], x[i, high]
        lower[i, low] = draw.uniform(0.5, 1.5, rows.at_lower)
        upper[i, high] = draw.uniform(0.5, 1.5, rows.at_upper)
    return lower, upper


def with_absent_rows(known: KnownProblem) -> KnownProblem:
    """Return the problem with ±inf where a row or bound does not bind, and one variable pinned.

    The solution and its multipliers stay; the pinned variable keeps the multiplier it had.
    """
    values, duals = dict(known.values), known.duals
    if duals is None:
        raise TypeError("with_absent_rows: the problem's multipliers are needed.")
    for i in range(known.batch):
        for field, multiplier, sign in (
            ("h", duals.inequality, 1.0),
            ("lower", duals.lower, -1.0),
            ("upper", duals.upper, 1.0),
        ):
            changed = values[field].clone()
            changed[i, (multiplier[i] == 0).nonzero()[0]] = sign * float("inf")
            values[field] = changed
        held = (duals.lower[i] > 0).nonzero()[0]
        upper = values["upper"].clone()
        upper[i, held] = values["lower"][i, held]
        values["upper"] = upper
    return KnownProblem(f"{known.name}, rows absent", known.problem, values, known.primal, duals)


def projected_gradient(program: SmoothProgram) -> IterationMap:
    """Return x -> clip(x - ∇f(x)/L) of a QP with bounds alone, for solvers that run a rule."""
    if program.data.P is None or not isinstance(program.data.P, Tensor):
        raise TypeError("projected_gradient: a dense P is needed.")
    step = (1 / largest_eigenvalue(program.data.P)).expand(program.batch)[:, None]
    lower, upper = program.lower, program.upper

    def start(primal: Tensor | None) -> Tensor:
        if primal is not None:
            return primal
        return torch.zeros(program.batch, program.n, dtype=program.dtype, device=program.device)

    return IterationMap(
        start=start,
        step=lambda z: torch.clip(z - step * program.gradient(z), lower, upper),
        residual=lambda z, updated: (updated - z).abs().amax(-1) / step[:, 0],
        primal=lambda z: z,
        duals=lambda z: None,
        failed=lambda: None,
    )
