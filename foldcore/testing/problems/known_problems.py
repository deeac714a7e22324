"""The kit's own problems: every class that a plugin can declare, with known solutions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from .known_problem import KnownProblem
from .known_quadratic import Rows, quadratic, with_absent_rows
from .known_smooth import (
    denoising,
    group_sparse,
    in_a_diamond,
    simplex,
    smooth,
    soft_threshold,
    sparse_regression,
)

_ALL = Rows(equality=1, active=1, inactive=2, at_lower=1, at_upper=1)
_BOX = Rows(at_lower=1, at_upper=1)
_VERTEX = Rows(equality=1, active=2, inactive=1, at_lower=1, at_upper=1)


@cache
def known_problems() -> tuple[KnownProblem, ...]:
    """Return the kit's problems, the same objects at every call; simple ones first.

    The linear program is one that first-order methods solve in hundreds of steps.
    """
    absent = quadratic("QP", 3, replace(_ALL, active=0, inactive=3))
    indefinite = torch.diag(torch.tensor([-0.8, -0.4, 1.0, 2.0], dtype=torch.float64))
    matrices = ("P", "A", "G")
    return (
        quadratic("QP in a box", 1, _BOX, n=5, constant=("P",), iterated=True),
        quadratic("QP", 2, _ALL),
        with_absent_rows(absent),
        quadratic("QP with constant matrices", 4, _ALL, constant=matrices),
        quadratic("QP with equalities alone", 5, Rows(equality=2), n=5, bounds=False),
        quadratic("LP", 38, _VERTEX, n=5, curved=False),
        quadratic("QCQP", 7, Rows(equality=1, at_lower=1), n=5, ball=1.0),
        quadratic("nonconvex QP", 8, _BOX, n=4, batch=1, hessian=indefinite, constant=("P",)),
        quadratic("nonconvex QCQP", 9, Rows(at_lower=1), n=4, ball=-1.0, constant=("P",)),
        smooth("NLP", 10),
        simplex("QP on a simplex", 11),
        sparse_regression("L1", 12),
        denoising("L1 of Dx", 13),
        group_sparse("group norms", 14),
    )


@cache
def rowless_problem() -> KnownProblem:
    """Return a problem over a set without constraint rows, of a class that no plugin knows."""
    return in_a_diamond("a set without rows", 15)


@cache
def smallest_problems() -> tuple[KnownProblem, ...]:
    """Return problems of one variable and one sample."""
    low, high = Rows(at_lower=1), Rows(at_upper=1)
    return (
        quadratic("QP of one variable", 20, low, n=1, batch=1, constant=("P",), iterated=True),
        quadratic("LP of one variable", 21, high, n=1, batch=1, curved=False),
        quadratic("QCQP of one variable", 22, Rows(), n=1, batch=1, ball=1.0),
        soft_threshold("L1 of one variable"),
    )
