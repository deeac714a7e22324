"""Closed convex sets: their projections and their lowering to linear and quadratic rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..quadratic.data import QuadraticData
from .base import Data, FieldSpec, Projection, SetAtom, Specs, expanded
from .projections import (
    AffineFactors,
    AffineProjector,
    project_box,
    project_box_hyperplane,
    project_capped_simplex,
    project_half_space,
    project_l1_ball,
    project_l2_ball,
    project_simplex,
)

_NUMBER = FieldSpec()
_NORMAL = FieldSpec(("n",))
_BOUND = FieldSpec(("n",), number=True, optional=True, infinite=True)
_MATRIX = FieldSpec(("m", "n"))


@dataclass(frozen=True, eq=False)
class Box(SetAtom):
    """{x: lower <= x <= upper}; None or ±inf is absent. Numbers or (n,)."""

    lower: Data | None = None
    upper: Data | None = None
    specs: ClassVar[Specs] = {"lower": _BOUND, "upper": _BOUND}

    def project(self, y: Tensor) -> Tensor:
        return project_box(y, self._optional("lower"), self._optional("upper"))

    def rows(self, n: int) -> QuadraticData:
        return QuadraticData(n, **_bounds(self._optional("lower"), self._optional("upper"), n))

    def _empty(self, n: int | None) -> Tensor:
        return _crossed(self._optional("lower"), self._optional("upper"))


@dataclass(frozen=True, eq=False)
class BoxHyperplane(SetAtom):
    """{x: aᵀx = b, lower <= x <= upper}. a (n,), b a number, bounds as in :class:`Box`."""

    a: Data
    b: Data
    lower: Data | None = None
    upper: Data | None = None
    specs: ClassVar[Specs] = {"a": _NORMAL, "b": _NUMBER, "lower": _BOUND, "upper": _BOUND}

    def project(self, y: Tensor) -> Tensor:
        bounds = self._optional("lower"), self._optional("upper")
        return project_box_hyperplane(y, self._tensor("a"), self._tensor("b"), *bounds)

    def rows(self, n: int) -> QuadraticData:
        bounds = _bounds(self._optional("lower"), self._optional("upper"), n)
        a, b = self._tensor("a").unsqueeze(-2), self._tensor("b").unsqueeze(-1)
        return QuadraticData(n, A=a, b=b, **bounds)

    def _empty(self, n: int | None) -> Tensor:
        a, b = self._tensor("a"), self._tensor("b")
        lower, upper = self._optional("lower"), self._optional("upper")
        infinity = a.new_tensor(torch.inf)
        low, high = -infinity if lower is None else lower, infinity if upper is None else upper
        zero = torch.zeros_like(a)
        least = torch.where(a == 0, zero, a * torch.where(a > 0, low, high))
        most = torch.where(a == 0, zero, a * torch.where(a > 0, high, low))
        return _crossed(lower, upper) | (b < _sum(least, b, -1)) | (b > _sum(most, b, 1))


@dataclass(frozen=True, eq=False)
class Simplex(SetAtom):
    """{x >= 0: Σx = total}. total a number."""

    total: Data = 1.0
    specs: ClassVar[Specs] = {"total": _NUMBER}

    def project(self, y: Tensor) -> Tensor:
        return project_simplex(y, self._tensor("total"))

    def rows(self, n: int) -> QuadraticData:
        total = self._tensor("total")
        ones, zeros = total.new_ones(1, n), total.new_zeros(n)
        return QuadraticData(n, A=ones, b=total.unsqueeze(-1), lower=zeros)

    def _empty(self, n: int | None) -> Tensor:
        return self._tensor("total") < 0


@dataclass(frozen=True, eq=False)
class CappedSimplex(SetAtom):
    """{0 <= x <= cap: Σx = total}. total a number, cap a number or (n,); +inf in cap is absent."""

    total: Data
    cap: Data = 1.0
    specs: ClassVar[Specs] = {
        "total": _NUMBER,
        "cap": FieldSpec(("n",), number=True, infinite=True),
    }

    def project(self, y: Tensor) -> Tensor:
        return project_capped_simplex(y, self._tensor("total"), self._tensor("cap"))

    def rows(self, n: int) -> QuadraticData:
        total = self._tensor("total")
        bounds = _bounds(total.new_zeros(()), self._tensor("cap"), n)
        return QuadraticData(n, A=total.new_ones(1, n), b=total.unsqueeze(-1), **bounds)

    def _empty(self, n: int | None) -> Tensor:
        total, cap = self._tensor("total"), self._tensor("cap")
        empty = (total < 0) | (cap < 0).any(-1)
        if n is None:
            return empty
        return empty | (total > _sum(expanded(cap, n), total, 1))


@dataclass(frozen=True, eq=False)
class L1Ball(SetAtom):
    """{x: ‖x‖₁ <= radius}. radius a number. Linear rows would need 2ⁿ of them, or more variables."""

    radius: Data
    specs: ClassVar[Specs] = {"radius": _NUMBER}
    has_rows = False
    polyhedral = False

    def project(self, y: Tensor) -> Tensor:
        return project_l1_ball(y, self._tensor("radius"))

    def rows(self, n: int) -> QuadraticData:
        raise UnsupportedError(
            f"L1Ball: ‖x‖₁ <= radius takes 2^{n} linear rows in x alone. Use an update rule that "
            "projects on the set, or write it with variables t >= |x| and Σt <= radius."
        )

    def _empty(self, n: int | None) -> Tensor:
        return self._tensor("radius") < 0


@dataclass(frozen=True, eq=False)
class L2Ball(SetAtom):
    """{x: ‖x - center‖₂ <= radius}. radius a number, center a number, (n,) or None for 0.

    Lowered to the quadratic row ½xᵀx - centerᵀx <= ½(radius² - ‖center‖²).
    """

    radius: Data
    center: Data | None = None
    specs: ClassVar[Specs] = {
        "radius": _NUMBER,
        "center": FieldSpec(("n",), number=True, optional=True),
    }
    polyhedral = False

    def project(self, y: Tensor) -> Tensor:
        return project_l2_ball(y, self._tensor("radius"), self._optional("center"))

    def rows(self, n: int) -> QuadraticData:
        radius, center = self._tensor("radius"), self._optional("center")
        middle = expanded(radius.new_zeros(()) if center is None else center, n)
        return QuadraticData(
            n,
            quadratic_P=torch.eye(n, dtype=radius.dtype, device=radius.device).unsqueeze(0),
            quadratic_q=-middle.unsqueeze(-2),
            quadratic_r=((radius * radius - (middle * middle).sum(-1)) / 2).unsqueeze(-1),
        )

    def _empty(self, n: int | None) -> Tensor:
        return self._tensor("radius") < 0


@dataclass(frozen=True, eq=False)
class AffineSet(SetAtom):
    """{x: Ax = b}, rows of A independent. A (m, n), b (m,).

    Dependent rows have no projection that is differentiable in A: where A is shared by the batch,
    projecting raises; where each sample has its own, it gives NaN to the samples concerned.
    """

    A: Data
    b: Data
    specs: ClassVar[Specs] = {"A": _MATRIX, "b": FieldSpec(("m",))}
    factored: ClassVar[tuple[str, ...]] = ("A",)

    def check(self, n: int) -> None:
        super().check(n)
        if isinstance(self.A, Tensor):
            AffineFactors(self.A)

    def project(self, y: Tensor) -> Tensor:
        return self.prepare()(y)

    def factor(self) -> AffineFactors:
        return AffineFactors(self._tensor("A"))

    def prepare(self, factors: AffineFactors | None = None) -> Projection:
        projector = AffineProjector(factors or self._tensor("A"), self._tensor("b"))
        return Projection(projector, projector.dependent)

    def rows(self, n: int) -> QuadraticData:
        return QuadraticData(n, A=self._tensor("A"), b=self._tensor("b"))

    def _empty(self, n: int | None) -> Tensor:
        return torch.zeros((), dtype=torch.bool, device=self._tensor("b").device)


@dataclass(frozen=True, eq=False)
class HalfSpace(SetAtom):
    """{x: aᵀx <= b}. a (n,), b a number; +inf in b is absent."""

    a: Data
    b: Data
    specs: ClassVar[Specs] = {"a": _NORMAL, "b": FieldSpec(infinite=True)}

    def project(self, y: Tensor) -> Tensor:
        return project_half_space(y, self._tensor("a"), self._tensor("b"))

    def rows(self, n: int) -> QuadraticData:
        return QuadraticData(
            n, G=self._tensor("a").unsqueeze(-2), h=self._tensor("b").unsqueeze(-1)
        )

    def _empty(self, n: int | None) -> Tensor:
        b = self._tensor("b")
        return ((self._tensor("a") == 0).all(-1) & (b < 0)) | (b == -torch.inf)


def _bounds(lower: Tensor | None, upper: Tensor | None, n: int) -> dict[str, Tensor]:
    given = {"lower": lower, "upper": upper}
    return {name: expanded(value, n) for name, value in given.items() if value is not None}


def _crossed(lower: Tensor | None, upper: Tensor | None) -> Tensor:
    crossed = torch.zeros((), dtype=torch.bool)
    if lower is not None:
        crossed = (lower == torch.inf).any(-1)
    if upper is not None:
        crossed = crossed | (upper == -torch.inf).any(-1)
    if lower is not None and upper is not None:
        crossed = crossed | (lower > upper).any(-1)
    return crossed


def _sum(terms: Tensor, other: Tensor, direction: int) -> Tensor:
    """Return Σ terms, moved by its rounding so that a comparison with ``other`` is certain."""
    size = terms.abs().sum(-1) + other.abs()
    return terms.sum(-1) + direction * terms.shape[-1] * torch.finfo(terms.dtype).eps * size
