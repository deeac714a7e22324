"""Problems given by functions and by terms with proximal operators, made from their solutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...atoms import L1, FieldSpec, GroupL2, SetAtom, Simplex
from ...atoms.base import Specs, as_column
from ...errors import UnsupportedError
from ...param import Param
from ...problem.problem import Problem
from ...quadratic.data import QuadraticData
from ...solution import Duals
from .known_problem import KnownProblem
from .known_quadratic import Draw

_F64 = torch.float64


def smooth(name: str, seed: int, *, batch: int = 3, n: int = 4) -> KnownProblem:
    """Return min Σ exp(x_i) + ½‖x‖² + cᵀx  s.t.  Σ x = s, Σ x⁴ <= r, x >= lower; all of it binds."""
    draw = Draw(seed)

    def objective(x: Tensor, c: Tensor) -> Tensor:
        return x.exp().sum() + (x * x).sum() / 2 + c @ x

    def equality(x: Tensor, s: Tensor) -> Tensor:
        return (x.sum() - s).reshape(1)

    def inequality(x: Tensor, r: Tensor) -> Tensor:
        return ((x**4).sum() - r).reshape(1)

    x = draw.uniform(0.3, 1, batch, n)
    nu, mu = draw.normal(batch, 1), draw.uniform(0.5, 1, batch, 1)
    lower = x - draw.uniform(0.3, 0.6, batch, n)
    at_lower = x.new_zeros(batch, n)
    for i in range(batch):
        lower[i, i % n] = x[i, i % n]
        at_lower[i, i % n] = 1.0 + 0.1 * i
    gradient = x.exp() + x + nu + mu * 4 * x**3 - at_lower
    problem = Problem(
        n,
        objective,
        {"c": Param(n), "s": Param(), "r": Param()},
        equality=equality,
        inequality=inequality,
        lower=Param(n),
        convex=True,
    )
    values = {"c": -gradient, "s": x.sum(-1), "r": (x**4).sum(-1), "lower": lower}
    duals = Duals(equality=nu, inequality=mu, lower=at_lower, upper=torch.zeros_like(x))
    return KnownProblem(name, problem, values, x, duals)


def simplex(name: str, seed: int, *, batch: int = 3, n: int = 5) -> KnownProblem:
    """Return min ½‖x‖² + cᵀx over the simplex Σx = total, x >= 0, with two variables at 0."""
    draw = Draw(seed)
    x = draw.uniform(0.2, 1, batch, n)
    at_lower = x.new_zeros(batch, n)
    for i in range(batch):
        held = [i % n, (i + 1) % n]
        x[i, held] = 0.0
        at_lower[i, held] = draw.uniform(0.5, 1.5, 2)
    nu = draw.normal(batch, 1)
    problem = Problem(
        n,
        _half_square,
        {"c": Param(n)},
        constraints=[Simplex(Param(name="total"))],
    )
    values = {"c": -(x + nu - at_lower), "total": x.sum(-1)}
    empty = x.new_zeros(batch, 0)
    duals = Duals(equality=nu, inequality=empty, lower=at_lower, upper=torch.zeros_like(x))
    return KnownProblem(name, problem, values, x, duals)


def _half_square(x: Tensor, c: Tensor) -> Tensor:
    return (x * x).sum() / 2 + c @ x


@dataclass(frozen=True, eq=False)
class Diamond(SetAtom):
    """{x: ‖x‖₁ <= size}, of a class that no plugin knows, and without constraint rows."""

    size: float | Tensor | Param = 1.0
    specs: ClassVar[Specs] = {"size": FieldSpec()}
    has_rows: ClassVar[bool] = False

    def project(self, y: Tensor) -> Tensor:
        """Project by sorting, for a point outside. Source: Duchi et al., ICML (2008), figure 1."""
        size = as_column(self._tensor("size"))
        ordered = y.abs().sort(dim=-1, descending=True).values
        counts = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype, device=y.device)
        levels = (ordered.cumsum(-1) - size) / counts
        kept = (ordered > levels).sum(-1, keepdim=True) - 1
        level = levels.gather(-1, kept).clamp(min=0)
        return y.sign() * (y.abs() - level).clamp(min=0)

    def rows(self, n: int) -> QuadraticData:
        raise UnsupportedError("Diamond has no rows.")

    def _empty(self, n: int | None) -> Tensor:
        return self._tensor("size") < 0


def in_a_diamond(name: str, seed: int, *, batch: int = 3, n: int = 5) -> KnownProblem:
    """Return min ½‖x‖² + cᵀx over a :class:`Diamond` that binds, with two variables at 0."""
    draw = Draw(seed)
    x = draw.uniform(0.2, 1, batch, n) * draw.normal(batch, n).sign()
    pull = draw.uniform(0.5, 1, batch, 1)
    subgradient = x.sign()
    for i in range(batch):
        held = [i % n, (i + 1) % n]
        x[i, held] = 0.0
        subgradient[i, held] = draw.uniform(-0.6, 0.6, 2)
    problem = Problem(n, _half_square, {"c": Param(n)}, constraints=[Diamond(Param(name="size"))])
    values = {"c": -(x + pull * subgradient), "size": x.abs().sum(-1)}
    return KnownProblem(name, problem, values, x)


def sparse_regression(name: str, seed: int, *, batch: int = 3, n: int = 4) -> KnownProblem:
    """Return min ½‖x‖² + 0.3·x₀x₁ + cᵀx + w‖x‖₁ with some entries of x* at 0."""
    draw = Draw(seed)
    x, weight = draw.uniform(0.5, 1, batch, n), torch.tensor(0.4, dtype=_F64)
    x[:, 0] *= -1
    subgradient = x.sign()
    for i in range(batch):
        x[i, 1 + i % (n - 1)] = 0.0
        subgradient[i, 1 + i % (n - 1)] = -0.5 + 0.3 * i
    coupled = torch.cat([0.3 * x[:, [1, 0]], torch.zeros_like(x[:, 2:])], dim=-1)
    values = {"c": -(x + coupled + weight * subgradient), "weight": weight}
    problem = Problem(n, _coupled_square, {"c": Param(n)}, regularizers=[L1(Param())])
    return KnownProblem(name, problem, values, x)


def _coupled_square(x: Tensor, c: Tensor) -> Tensor:
    return (x * x).sum() / 2 + 0.3 * x[0] * x[1] + c @ x


def denoising(name: str, seed: int, *, batch: int = 3, n: int = 5, rows: int = 3) -> KnownProblem:
    """Return min ½‖x - d‖² + w‖Dx‖₁ with the first entry of Dx* at 0."""
    draw = Draw(seed)
    operator, weight = draw.normal(rows, n), torch.tensor(0.3, dtype=_F64)
    x = 2 * draw.normal(batch, n)
    first = operator[0]
    x = x - (x @ first)[:, None] * first / (first @ first)
    dual = weight * (x @ operator.mT).sign()
    dual[:, 0] = weight * torch.linspace(-0.5, 0.5, batch, dtype=_F64)
    values = {"d": x + dual @ operator, "D": operator, "weight": weight}
    problem = Problem(
        n,
        _distance,
        {"d": Param(n)},
        regularizers=[L1(Param(), Param(rows, n, name="D"))],
    )
    return KnownProblem(name, problem, values, x)


def _distance(x: Tensor, d: Tensor) -> Tensor:
    return ((x - d) ** 2).sum() / 2


def group_sparse(name: str, seed: int, *, batch: int = 3) -> KnownProblem:
    """Return min ½‖x - d‖² + w Σ_g ‖x_g‖₂ over three pairs; one pair of x* is 0."""
    draw = Draw(seed)
    d = draw.normal(batch, 6)
    d = d / d.reshape(batch, 3, 2).norm(dim=-1).repeat_interleave(2, dim=-1)
    weight = torch.tensor(0.4, dtype=_F64)
    scale = torch.tensor([2.0, 1.5, 0.2], dtype=_F64).repeat_interleave(2)
    d = d * scale
    norm = d.reshape(batch, 3, 2).norm(dim=-1).repeat_interleave(2, dim=-1)
    x = d * (1 - weight / norm).clamp(min=0)
    problem = Problem(6, _distance, {"d": Param(6)}, regularizers=[GroupL2(Param(), 2)])
    return KnownProblem(name, problem, {"d": d, "weight": weight}, x)


def soft_threshold(name: str) -> KnownProblem:
    """Return min ½(x - d)² + w|x| of one variable and one sample; x* = d - w."""
    d, weight = torch.tensor([[2.0]], dtype=_F64), torch.tensor(0.5, dtype=_F64)
    problem = Problem(1, _distance, {"d": Param(1)}, regularizers=[L1(Param())])
    return KnownProblem(name, problem, {"d": d, "weight": weight}, d - weight)
