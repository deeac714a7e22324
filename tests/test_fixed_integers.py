"""FixedIntegers: bounds that fix, rows that leave, multipliers that come back in their places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.problem.fixed_integers import WHOLE_NUMBERS, FixedIntegers

F64, INF = torch.float64, float("inf")
A = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 2.0]], dtype=F64)
G = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=F64)
WHOLE = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=F64)
"""Of columns 0 and 2: row 0 of A and row 1 of G concern them alone, and so does the empty row 2."""


def sparse(matrix: Tensor, values: Tensor | fc.Param) -> fc.Sparse:
    rows, cols = matrix.nonzero().T
    return fc.Sparse(rows, cols, (matrix.shape[0], matrix.shape[1]), values)


def declared(kind: str) -> tuple[fc.QuadraticProgram, dict[str, Tensor]]:
    """Return a problem in parameters b, h and lower, with its matrices given in one of four ways."""
    values: dict[str, Tensor] = {
        "b": torch.tensor([3.0, 4.0], dtype=F64),
        "h": torch.tensor([5.0, 9.0, 1.0], dtype=F64),
        "lower": torch.full((2, 4), -1.0, dtype=F64),
    }
    matrices: dict[str, Any] = {"A": A, "G": G}
    if kind == "sparse":
        matrices = {name: sparse(m, m[m != 0]) for name, m in matrices.items()}
    elif kind == "sparse parameter":
        for name, m in (("A", A), ("G", G)):
            values[name] = m[m != 0]
            matrices[name] = sparse(m, fc.Param(values[name].numel(), name=name))
    elif kind == "dense parameter G":
        values["G"] = G.expand(2, -1, -1)
        matrices["G"] = fc.Param(3, 4)
    params = {"b": fc.Param(2), "h": fc.Param(3), "lower": fc.Param(4)}
    problem = fc.QuadraticProgram(**matrices, **params, integer=[0, 2])
    return problem, {name: value.requires_grad_() for name, value in values.items()}


KINDS = ["dense", "sparse", "sparse parameter", "dense parameter G"]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_become_bounds_and_rows_of_them_leave(kind: str) -> None:
    problem, values = declared(kind)
    fixed = FixedIntegers(problem)
    program = fixed.bind({**problem.constants, **values, WHOLE_NUMBERS: WHOLE}, 2)
    data = program.data
    assert data.lower is not None
    assert data.upper is not None
    assert data.h is not None
    assert torch.equal(data.lower[:, [0, 2]], WHOLE)
    assert torch.equal(data.upper[:, [0, 2]], WHOLE)
    assert (data.lower[:, [1, 3]] == -1).all()
    assert (data.upper[:, [1, 3]] == INF).all()
    x = torch.tensor([[1.0, 0.5, 2.0, -0.5], [0.0, 1.0, 3.0, 2.0]], dtype=F64)
    torch.testing.assert_close(program.equality(x), x @ A[1:].mT - 4.0)
    rows = program.inequality(x)
    torch.testing.assert_close(rows[:, 0], x @ G[0] - 5.0)
    assert (rows[:, 1:] == -INF).all()
    structure = fixed.structure
    assert (structure.n_equality, structure.n_inequality) == (1, 3)
    assert structure.integer == program.structure.integer == ()
    assert {"lower", "upper", "b", "h"} <= set(structure.template.varying)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_stays_on_the_graph_with_derivative_zero_where_decided(kind: str) -> None:
    problem, values = declared(kind)
    program = FixedIntegers(problem).bind({**problem.constants, **values, WHOLE_NUMBERS: WHOLE}, 2)
    x = torch.ones(2, 4, dtype=F64)
    assert program.lower is not None
    total = program.equality(x).sum() + program.inequality(x)[:, 0].sum() + program.lower.sum()
    slopes = torch.autograd.grad(total, list(values.values()))
    found = dict(zip(values, slopes, strict=True))
    assert found["b"].tolist() == [0.0, -2.0]
    assert found["h"].tolist() == [-2.0, 0.0, 0.0]
    assert found["lower"].tolist() == [[0.0, 1.0, 0.0, 1.0]] * 2
    if kind == "sparse parameter":
        assert found["A"].tolist() == [0.0, 0.0, 2.0, 2.0, 2.0]


def test_multipliers_return_to_the_rows_of_the_definition() -> None:
    fixed = FixedIntegers(declared("dense")[0])
    zero = torch.zeros(2, 4, dtype=F64)
    duals = fc.Duals(torch.tensor([[7.0], [8.0]], dtype=F64), zero[:, :3], zero, zero)
    users = fixed.order_duals(duals)
    assert users.equality.tolist() == [[0.0, 7.0], [0.0, 8.0]]
    assert torch.equal(fixed.order_duals(users, inverse=True).equality, duals.equality)


def test_violated_rows_of_integers_are_measured() -> None:
    for kind in KINDS:
        problem, values = declared(kind)
        fixed = FixedIntegers(problem)
        data = problem.bind({**problem.constants, **values}, 2).data
        assert fixed.excess(data, WHOLE).tolist() == [0.0, 0.0], "1 + 2 = 0 + 3 = 3, 3·3 <= 9"
        wrong = torch.tensor([[1.0, 3.0], [-1.0, 4.0]], dtype=F64)
        expected = torch.tensor([1.0 / 4.0, 3.0 / 10.0], dtype=F64)
        torch.testing.assert_close(fixed.excess(data, wrong), expected)


def test_a_dense_parameter_with_a_decided_equality_is_noticed() -> None:
    problem = fc.QuadraticProgram(q=fc.Param(4), A=fc.Param(2, 4), b=fc.Param(2), integer=[0, 2])
    mixed = torch.stack([A, torch.ones_like(A)])
    values = {"q": torch.zeros(4, dtype=F64), "A": mixed, "b": torch.zeros(2, dtype=F64)}
    data = problem.bind(values, 2).data
    found = FixedIntegers(problem).undroppable(data)
    assert found is not None
    assert found.tolist() == [True, False]
    constant, given = declared("dense")
    data = constant.bind({**constant.constants, **given}, 2).data
    assert FixedIntegers(constant).undroppable(data) is None


def test_lowered_structures_are_fixed_alike() -> None:
    problem = fc.Problem(
        3, lambda x, q: q @ x, {"q": fc.Param(3)}, lower=0.0, upper=2.0,
        equality=lambda x: (x[0] - x[1]).reshape(1), regularizers=[fc.L1(0.5)], integer=[0, 1],
    )  # fmt: skip
    fixed = FixedIntegers(problem)
    assert problem.lowered_structure.integer == (0, 1)
    assert fixed.structure.n_equality == fixed.lowered_structure.n_equality == 0
    assert fixed.lowered_structure.n == 6
    assert fixed.lowered_structure.template.A is None
    assert fixed.lowered_structure.integer == ()


def test_it_is_not_bound_without_whole_numbers() -> None:
    problem, values = declared("dense")
    with pytest.raises(fc.ProblemError, match="call the layer"):
        FixedIntegers(problem).bind({**problem.constants, **values}, 2)
