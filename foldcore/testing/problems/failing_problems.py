"""Batches of which one sample has no solution, beside batches in which all are fine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ...param import Param
from ...problem.parametric import ParametricProblem
from ...problem.problem import Problem
from ...problem.quadratic import QuadraticProgram
from ...program.program import SmoothProgram

_F64 = torch.float64


@dataclass(frozen=True)
class FailingProblem:
    """Three samples of one problem; the middle one has no solution in ``values``.

    Attributes:
        kind: Why it has none.
        values: Data in float64; parameters that are not in ``sound`` are equal in both.
        sound: The parameters that make the difference, as they are where all have solutions.
    """

    name: str
    kind: Literal["infeasible", "unbounded"]
    problem: ParametricProblem
    values: Mapping[str, Tensor]
    sound: Mapping[str, Tensor]

    def bind(self, *, failing: bool) -> SmoothProgram:
        """Return the program of three samples, with or without the failing one."""
        values = {**self.problem.constants, **self.values, **({} if failing else self.sound)}
        return self.problem.bind(values, 3)


@cache
def failing_problems() -> tuple[FailingProblem, ...]:
    """Return infeasible and unbounded problems of the classes LP, QP, QCQP and NLP."""
    n = 4
    eye, ones = torch.eye(n, dtype=_F64), torch.ones(1, n, dtype=_F64)
    zeros = torch.zeros(n, dtype=_F64)
    box = {"A": ones, "b": Param(1), "lower": zeros, "upper": zeros + 1}
    q = torch.stack([torch.linspace(-1, 1, n), torch.linspace(0, 2, n), torch.linspace(2, -1, n)])
    q = q.double()
    sums = torch.tensor([[1.5], [2.0], [2.5]], dtype=_F64)
    beyond = torch.tensor([[1.5], [n + 3.0], [2.5]], dtype=_F64)
    ball = {
        "quadratic_P": eye.expand(1, n, n),
        "quadratic_q": zeros.expand(1, n),
        "quadratic_r": torch.full((1,), 8.0, dtype=_F64),
    }
    # A sample that descends without end along x_0 > 0, where the others go up.
    descending = q.abs() + 0.5
    descending[1, 0] = -1.0
    flat = eye.expand(3, n, n).clone()
    flat[1, 0, 0] = 0.0
    programs: list[FailingProblem] = []
    for name, fields in (("LP", {}), ("QP", {"P": eye}), ("QCQP", {"P": eye, **ball})):
        problem = QuadraticProgram(q=Param(n), **fields, **box)  # type: ignore[arg-type]
        values = {"q": q, "b": beyond}
        programs.append(
            FailingProblem(f"infeasible {name}", "infeasible", problem, values, {"b": sums})
        )
    programs.append(
        FailingProblem(
            "unbounded LP",
            "unbounded",
            QuadraticProgram(q=Param(n), lower=zeros),
            {"q": descending},
            {"q": descending.abs()},
        )
    )
    programs.append(
        FailingProblem(
            "unbounded QP",
            "unbounded",
            QuadraticProgram(P=Param(n, n, psd=True), q=Param(n), lower=zeros),
            {"P": flat, "q": descending},
            {"P": eye.expand(3, n, n)},
        )
    )
    programs.append(
        FailingProblem(
            "infeasible NLP",
            "infeasible",
            Problem(
                n, _exponentials, {"c": Param(n), "s": Param()}, equality=_sum_is, lower=0.0,
                upper=1.0, convex=True,
            ),
            {"c": q, "s": beyond[:, 0]},
            {"s": sums[:, 0]},
        )
    )  # fmt: skip
    programs.append(
        FailingProblem(
            "unbounded NLP",
            "unbounded",
            Problem(n, _decaying, {"c": Param(n)}, lower=0.0, convex=True),
            {"c": descending},
            {"c": descending.abs()},
        )
    )
    return tuple(programs)


def _exponentials(x: Tensor, c: Tensor) -> Tensor:
    return x.exp().sum() + c @ x


def _sum_is(x: Tensor, s: Tensor) -> Tensor:
    return (x.sum() - s).reshape(1)


def _decaying(x: Tensor, c: Tensor) -> Tensor:
    return (-x).exp().sum() + c @ x
