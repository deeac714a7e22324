"""Problem: functions of one sample against the same problem as matrices; order of rows; travel."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foldcore as fc

N, B = 4, 3
GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


F, W = normal(N, N), normal(2, N)
P = F @ F.mT
VALUES = {"c": normal(B, N), "r": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)}
PARAMS = {"c": fc.Param(N), "r": fc.Param()}


def mixed(**extra: Any) -> fc.Problem:
    """Return rows [affine, curved, affine, curved], in which order users see them."""
    return fc.Problem(
        N, lambda x, c: x @ P @ x / 2 + c @ x, PARAMS,
        inequality=lambda x, c, r: torch.cat(
            [
                (W[0] @ x - 1).reshape(1),
                (x @ x - 2 * r).reshape(1),
                (c @ x - 3).reshape(1),
                (x @ P @ x + c @ x - r).reshape(1),
            ]
        ),
        equality=lambda x, r: (x.sum() - r).reshape(1), lower=-5.0, upper=fc.Param(N), **extra,
    )  # fmt: skip


def bound(problem: fc.Problem, **values: Tensor) -> fc.SmoothProgram:
    given = {**VALUES, "upper": torch.full((N,), 5.0, dtype=torch.float64), **values}
    return problem.bind({**problem.constants, **given}, B)


def test_program_agrees_with_the_functions() -> None:
    program = bound(mixed())
    x = normal(B, N)
    c, r = VALUES["c"], VALUES["r"]
    torch.testing.assert_close(program.gradient(x), x @ P + c, rtol=1e-12, atol=1e-12)
    curved = [(x * x).sum(-1) - 2 * r, (x @ P * x).sum(-1) + (x * c).sum(-1) - r]
    affine = [x @ W[0] - 1, (x * c).sum(-1) - 3]
    expected = torch.stack([affine[0], curved[0], affine[1], curved[1]], -1)
    found = program.inequality(x)
    order = [0, 2, 1, 3]  # affine rows stand before curved ones
    torch.testing.assert_close(found, expected[:, order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(program.equality(x), (x.sum(-1) - r)[:, None])
    slopes = torch.func.jacrev(lambda z: program.inequality(z).sum(0))(x).permute(1, 0, 2)
    torch.testing.assert_close(program.inequality_jacobian(x), slopes, rtol=1e-10, atol=1e-10)


def test_duals_are_returned_in_the_users_order() -> None:
    problem = mixed()
    marked = torch.tensor([[0.0, 2.0, 1.0, 3.0]] * B, dtype=torch.float64)
    zero = torch.zeros(B, N, dtype=torch.float64)
    duals = fc.Duals(zero[:, :1], marked, zero, zero)
    users = problem.order_duals(duals)
    assert users.inequality[0].tolist() == [0.0, 1.0, 2.0, 3.0]
    back = problem.order_duals(users, inverse=True)
    assert torch.equal(back.inequality, marked)


def test_recognised_classes() -> None:
    def kind(problem: fc.Problem) -> fc.ProblemClass:
        return problem.structure.problem_class

    assert kind(mixed()) is fc.ProblemClass.QCQP
    assert kind(fc.Problem(N, lambda x: x.sum(), lower=0.0)) is fc.ProblemClass.LP
    assert kind(fc.Problem(N, lambda x: x @ P @ x)) is fc.ProblemClass.QP
    assert kind(fc.Problem(N, lambda x: -(x @ P @ x))) is fc.ProblemClass.NONCONVEX_QP
    exp = fc.Problem(N, lambda x: x.exp().sum())
    assert kind(exp) is fc.ProblemClass.NLP
    assert "exp" in exp.structure.reason
    relu = fc.Problem(N, lambda x: x @ x, inequality=lambda x: torch.relu(x - 3)[:1])
    assert kind(relu) is fc.ProblemClass.NLP, "a zero Hessian at samples proves nothing"


def test_asserted_structure_is_compared_at_every_returned_point() -> None:
    pytest.importorskip("foldcore_newton", reason="folds with foldcore-newton")

    def tricky(x: Tensor) -> Tensor:
        return (x @ x) / 2 + torch.relu(x[0] - 3) ** 3

    problem = fc.Problem(N, tricky, structure="qp", lower=fc.Param(N))
    assert problem.structure.problem_class is fc.ProblemClass.QP
    layer = fc.build({"problem": problem, "solver": lambda p: p.data.lower.clamp(min=0).expand(
        p.batch, -1), "rule": "newton"})  # fmt: skip
    low = torch.full((B, N), 1.0, dtype=torch.float64)
    assert torch.equal(layer(lower=low), low)
    with pytest.raises(fc.RecognitionError, match="objective is not"):
        layer(lower=4 * low)


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_problems_travel(travel: Any) -> None:
    other = travel(mixed())
    x = normal(B, N)
    assert torch.equal(bound(other).inequality(x), bound(mixed()).inequality(x))
    assert other.structure.problem_class is fc.ProblemClass.QCQP


def test_shared_and_batched_parameters_mix() -> None:
    x = normal(B, N)
    c = VALUES["c"][0]
    shared, expanded = bound(mixed(), c=c), bound(mixed(), c=c.expand(B, N))
    assert shared.data.q is not None
    assert shared.data.q.ndim == 1, "what depends on shared parameters alone stays shared"
    torch.testing.assert_close(shared.inequality(x), expanded.inequality(x), rtol=1e-14, atol=0)


def test_module_parameters_belong_to_the_layer() -> None:
    net = nn.Linear(N, 1, bias=False).double()
    problem = fc.Problem(N, lambda x, module: module(x).square().sum() + x @ x, module=net,
                         lower=fc.Param(N))  # fmt: skip
    assert set(problem.params) == {"lower"}
    assert problem.modules == {"module": net}


def test_integer_buffers_of_a_module_do_no_harm() -> None:
    net = nn.BatchNorm1d(N).double().eval()  # it counts batches in an int64 buffer
    problem = fc.Problem(
        N, lambda x, c, module: (x - module(c[None])[0]) @ (x - module(c[None])[0]),
        {"c": fc.Param(N)}, module=net,
    )  # fmt: skip
    pytest.importorskip("foldcore_newton", reason="folds with foldcore-newton")

    def minimiser(program: fc.SmoothProgram) -> Tensor:
        return -program.gradient(torch.zeros(program.batch, N, dtype=torch.float64)) / 2

    layer = fc.build({"problem": problem, "solver": minimiser, "rule": "newton"})
    c = normal(B, N)
    torch.testing.assert_close(layer(c=c), net(c), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["bound", "objective"])
def test_a_problem_of_constants_alone(form: str) -> None:
    pytest.importorskip("foldcore_newton", reason="folds with foldcore-newton")
    if form == "bound":
        problem = fc.Problem(N, lambda x: ((x - 1) ** 4).sum(), lower=2.0)
    else:
        problem = fc.Problem(N, lambda x: ((x - 2) ** 2).sum())
    layer = fc.build(
        {"problem": problem, "solver": lambda p: torch.full((1, N), 2.0).double(), "rule": "newton"}
    )
    assert torch.equal(layer(), torch.full((N,), 2.0, dtype=torch.float64))


def test_a_param_that_two_pieces_use_is_one_parameter() -> None:
    one = fc.Param(N, name="bound")
    problem = fc.Problem(N, lambda x, bound: x @ x - bound @ x, {"bound": one}, upper=one)
    assert list(problem.params) == ["bound"]
    other = fc.Param(N, name="bound")
    with pytest.raises(fc.ProblemError, match="'bound' is used twice"):
        fc.Problem(N, lambda x, bound: x @ x, {"bound": one}, upper=other)


def test_infinite_bounds_are_allowed_for_bounds_only() -> None:
    problem = mixed()
    assert problem.may_be_infinite("upper")
    assert not problem.may_be_infinite("c")
    assert math.isinf(fc.Problem(N, lambda x: x @ x, lower=-math.inf).constants["lower"][0])


MASK = torch.tensor([True, False, False, True])


@pytest.mark.parametrize("given", [[0, 3], (3, 0), MASK, torch.tensor([3, 0])])
def test_whole_numbers_are_declared_by_index_or_mask(given: Any) -> None:
    functions = mixed(integer=given)
    matrices = fc.QuadraticProgram(P=P, q=fc.Param(N), integer=given)
    for problem in (functions, matrices):
        for twin in (problem, copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
            assert twin.structure.integer == twin.lowered_structure.integer == (0, 3)
            relaxed = twin.relaxed()
            assert relaxed.structure.integer == relaxed.lowered_structure.integer == ()
            assert relaxed.structure.problem_class is twin.structure.problem_class
            assert relaxed.relaxed() is relaxed
    x = normal(B, N)
    assert torch.equal(bound(functions.relaxed()).inequality(x), bound(functions).inequality(x))
    assert mixed().structure.integer == ()


WRONG_COLUMNS = {
    "out of range": ([0, N], f"contains {N}; expected column indices from 0 to {N - 1}"),
    "negative": ([-1], "contains -1"),
    "twice": ([1, 1], "names a column twice"),
    "a number": (2, "integer is 2; expected column indices"),
    "a fraction": ([1.0], "contains 1.0"),
    "a list of bools": ([True, False, True, True], "contains True"),
    "a mask of wrong size": (MASK[:2], r"a mask of shape \(2,\)"),
    "a parameter": (fc.Param(N), "integer is Param"),
}


@pytest.mark.parametrize("name", WRONG_COLUMNS)
def test_wrong_whole_numbers_are_refused(name: str) -> None:
    given, message = WRONG_COLUMNS[name]
    with pytest.raises(fc.ProblemError, match=f"^QuadraticProgram: .*{message}"):
        fc.QuadraticProgram(P=P, q=fc.Param(N), integer=given)
    with pytest.raises(fc.ProblemError, match=f"^Problem: .*{message}"):
        mixed(integer=given)


def test_a_problem_class_of_ones_own_must_relax_its_whole_numbers() -> None:
    class Own(fc.QuadraticProgram):
        relaxed = fc.ParametricProblem.relaxed

    assert Own(q=fc.Param(N)).relaxed().structure.integer == ()
    with pytest.raises(fc.ProblemError, match=r"Own: structure.integer is \(1,\)"):
        Own(q=fc.Param(N), integer=[1]).relaxed()
