"""QPs whose data come in several forms: fixed variables, sparse matrices, shared beside batched."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ...param import Param, Sparse
from ...problem.quadratic import QuadraticProgram
from .exact_qp import solve_exactly
from .known_problem import KnownProblem
from .random_problems import random_qp

_N, _B = 6, 3


@cache
def fixed_variables() -> KnownProblem:
    """Return a QP in a box in which each sample has another variable with lower == upper."""
    data = random_qp(61, _N, n_equality=1, batch=_B)
    for i in range(_B):
        data["lower"][i, i] = data["upper"][i, i] = 0.5
    A = data["A"][0]
    problem = QuadraticProgram(
        P=data["P"][0],
        q=Param(_N),
        A=A,
        b=A.sum(-1) / 2,  # every sample's own point is ½·(1, …, 1)
        lower=Param(_N),
        upper=Param(_N),
    )
    values = {name: data[name] for name in ("q", "lower", "upper")}
    return _solved("QP with fixed variables", problem, values)


@cache
def sparse_matrices() -> KnownProblem:
    """Return a QP whose matrices are constant and sparse, with an entry that is given in two parts."""
    data = random_qp(62, _N, n_equality=1, n_inequality=3)
    data["G"] = data["G"] * (torch.arange(3 * _N).reshape(3, _N) % 2)
    data["h"] = data["G"] @ torch.full((_N,), 0.5).double() + 0.2
    problem = QuadraticProgram(
        P=_sparse(data["P"]),
        q=Param(_N),
        A=_sparse(data["A"]),
        b=data["b"],
        G=_sparse(data["G"]),
        h=data["h"],
        lower=data["lower"],
        upper=data["upper"],
    )
    return _solved("QP with sparse matrices", problem, {"q": data["q"] + _apart()})


@cache
def shared_beside_batched() -> KnownProblem:
    """Return a QP of which q and h are each sample's own, and all other parameters the batch's."""
    data = random_qp(63, _N, n_equality=1, n_inequality=3)
    problem = QuadraticProgram(
        **{name: Param(*value.shape, psd=name == "P") for name, value in data.items()}
    )
    own = {"q": data["q"] + _apart(), "h": data["h"] + torch.linspace(0, 0.3, _B).double()[:, None]}
    return _solved("QP with shared and batched data", problem, {**data, **own})


def _apart() -> Tensor:
    """Return changes of q that move each sample to a solution of its own."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(_B, _N, generator=generator, dtype=torch.float64)


def _sparse(matrix: Tensor) -> Sparse:
    rows, cols = torch.nonzero(matrix, as_tuple=True)
    values = matrix[rows, cols]
    halved = values.clone()
    halved[0] = 0.25 * values[0]
    return Sparse(
        torch.cat([rows, rows[:1]]),
        torch.cat([cols, cols[:1]]),
        (int(matrix.shape[0]), int(matrix.shape[1])),
        torch.cat([halved, 0.75 * values[:1]]),
    )


def _solved(name: str, problem: QuadraticProgram, values: dict[str, Tensor]) -> KnownProblem:
    unsolved = KnownProblem(name, problem, values, torch.zeros(_B, _N, dtype=torch.float64))
    solution = solve_exactly(unsolved.bind())
    return KnownProblem(name, problem, values, solution.primal, solution.duals)
