"""SmoothProgram: values and derivatives against finite differences, and the program of one sample."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

B, N = 3, 4
STEP = 1e-6


def nonlinear() -> fc.Problem:
    """A problem of every kind of part: functions, affine and quadratic rows, bounds, a set."""
    return fc.Problem(
        N,
        lambda x, c, s: torch.exp(s * x).sum() + c @ x + (x[0] * x[1] * x[2]) ** 2,
        params={"c": fc.Param(N), "s": fc.Param(), "t": fc.Param(2)},
        equality=lambda x, t: torch.stack([torch.sin(x[0]) * x[1] - t[0], x[2] ** 3 + t[1]]),
        inequality=lambda x, s: torch.stack([s * x @ x - 9.0, x[0] * x[3] - 2.0 + torch.exp(x[1])]),
        lower=-3.0,
        constraints=[fc.CappedSimplex(2.0, cap=1.5)],
    )


def curved() -> fc.Problem:
    """A problem whose parts are all recognised: quadratic data with linear and quadratic rows."""
    return fc.Problem(
        N,
        lambda x, c, s: s * x @ x + x[0] * x[1] + c @ x,
        params={"c": fc.Param(N), "s": fc.Param(), "t": fc.Param(2)},
        equality=lambda x, t: torch.stack([x[0] + t[0] * x[1], x[2] - t[1]]),
        inequality=lambda x, s: torch.stack([s * x @ x - 9.0, x[0] - x[3] - 2.0]),
        upper=fc.Param(N, name="u"),
    )


def values(problem: fc.Problem, batched: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lead = (B,) if batched else ()
    given = {
        name: 0.5 + torch.rand((*lead, *p.shape), generator=generator, dtype=torch.float64)
        for name, p in problem.params.items()
    }
    return {**problem.constants, **given}


def points(rows: int = B) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, N, generator=generator, dtype=torch.float64)


def random_duals(program: fc.SmoothProgram) -> fc.Duals:
    generator = torch.Generator().manual_seed(2)
    sizes = (program.n_equality, program.n_inequality, program.n, program.n)
    return fc.Duals(*(torch.rand(B, k, generator=generator, dtype=torch.float64) for k in sizes))


def central(function, x: Tensor) -> Tensor:
    """Return ∂function/∂x by central differences, the variable last."""
    columns = []
    for j in range(x.shape[-1]):
        move = torch.zeros_like(x)
        move[:, j] = STEP
        columns.append((function(x + move) - function(x - move)) / (2 * STEP))
    return torch.stack(columns, -1)


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.expand_as(expected), expected, rtol=1e-7, atol=1e-7)


PROBLEMS = pytest.mark.parametrize("make", [nonlinear, curved])
SHARING = pytest.mark.parametrize("batched", [False, True])


@PROBLEMS
@SHARING
def test_derivatives_are_those_of_the_values(make, batched: bool) -> None:
    problem = make()
    program, x = problem.bind(values(problem, batched), B), points()
    assert_near(program.gradient(x), central(program.objective, x))
    assert_near(program.hessian(x), central(program.gradient, x))
    assert_near(program.equality_jacobian(x), central(program.equality, x))
    assert_near(program.inequality_jacobian(x), central(program.inequality, x))
    direction = points().flip(0)
    product = (central(program.gradient, x) @ direction.unsqueeze(-1)).squeeze(-1)
    assert_near(program.hessian_product(x, direction), product)


@PROBLEMS
@SHARING
def test_the_lagrangian_is_the_sum_of_its_parts(make, batched: bool) -> None:
    problem = make()
    program, x = problem.bind(values(problem, batched), B), points()
    duals = random_duals(program)

    def constraints(y: Tensor) -> Tensor:
        rows = (duals.equality * program.equality(y)).sum(-1)
        return rows + (duals.inequality * program.inequality(y)).sum(-1)

    def lagrangian(y: Tensor) -> Tensor:
        value = program.objective(y) + constraints(y)
        if program.lower is not None:
            value = value + (duals.lower * (program.lower - y)).sum(-1)
        if program.upper is not None:
            value = value + (duals.upper * (y - program.upper)).sum(-1)
        return value

    assert_near(program.lagrangian_gradient(x, duals), central(lagrangian, x))
    hessian = central(lambda y: program.lagrangian_gradient(y, duals), x)
    assert_near(program.lagrangian_hessian(x, duals), hessian)
    assert_near(program.constraint_hessian(x, duals), hessian - program.hessian(x))


@PROBLEMS
@SHARING
def test_a_sample_is_its_row_of_the_batch(make, batched: bool) -> None:
    problem = make()
    given = values(problem, batched)
    program, x = problem.bind(given, B), points()
    duals = random_duals(program)
    for i in range(B):
        one, at = program.sample(i), x[i : i + 1]
        assert one.batch == 1
        assert (one.n_equality, one.n_inequality) == (program.n_equality, program.n_inequality)
        row = duals.map(lambda value, i=i: value[i : i + 1])
        for name in ("objective", "gradient", "equality", "inequality"):
            whole = getattr(program, name)(x)[i : i + 1]
            torch.testing.assert_close(getattr(one, name)(at), whole, rtol=1e-14, atol=1e-14)
        for name in ("hessian", "equality_jacobian", "inequality_jacobian"):
            whole = getattr(program, name)(x)
            expected = whole[i : i + 1] if whole.ndim == 3 else whole
            torch.testing.assert_close(getattr(one, name)(at), expected, rtol=1e-14, atol=1e-14)
        whole = program.lagrangian_hessian(x, duals)
        expected = whole[i : i + 1] if whole.ndim == 3 else whole
        torch.testing.assert_close(
            one.lagrangian_hessian(at, row), expected, rtol=1e-14, atol=1e-14
        )
        for name, value in one.params.items():
            assert torch.equal(value, given[name][i : i + 1] if batched else given[name])


def test_a_parameter_of_the_batchs_length_is_not_taken_for_a_batch() -> None:
    problem = fc.Problem(B, lambda x, c: torch.exp(c * x).sum(), params={"c": fc.Param(B)})
    c = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    one = problem.bind({"c": c}, B).sample(1)
    assert torch.equal(one.params["c"], c)
    x = torch.ones(1, B, dtype=torch.float64)
    torch.testing.assert_close(one.objective(x), torch.exp(c).sum().reshape(1))


def test_what_the_batch_shares_stays_one_object() -> None:
    data = random_qp(0, N, 1, 2)
    q = torch.randn(B, N, dtype=torch.float64)
    program = declare(data, ["P", "q"]).bind({**data, "q": q}, B)
    first, second = program.sample(0), program.sample(1)
    assert first.data.P is second.data.P
    assert torch.equal(second.data.q, q[1:2])
    assert torch.equal(second.params["q"], q[1:2])


def test_sparse_data_are_cut_on_their_values() -> None:
    index = torch.arange(N)
    problem = fc.QuadraticProgram(
        P=fc.Sparse(index, index, (N, N), fc.Param(N, name="P")), q=torch.ones(N).double()
    )
    diagonal = torch.rand(B, N, dtype=torch.float64)
    program = problem.bind({**problem.constants, "P": diagonal}, B)
    x = points()
    one = program.sample(2)
    assert isinstance(one.data.P, fc.SparseMatrix)
    torch.testing.assert_close(one.gradient(x[2:]), program.gradient(x)[2:])


def test_lowered_programs_have_samples() -> None:
    problem = fc.Problem(
        N,
        lambda x, c: torch.exp(x - c).sum(),
        params={"c": fc.Param(N)},
        regularizers=[fc.L1(fc.Param(N, name="w"))],
    )
    weights = torch.rand(B, N, dtype=torch.float64)
    given = {**problem.constants, "c": points(), "w": weights}
    lowered = fc.Lowering(problem.bind(given, B)).program
    z = torch.rand(B, lowered.n, dtype=torch.float64)
    one = pickle.loads(pickle.dumps(lowered.sample(1)))
    torch.testing.assert_close(one.objective(z[1:2]), lowered.objective(z)[1:2])
    torch.testing.assert_close(one.inequality(z[1:2]), lowered.inequality(z)[1:2])


def test_terms_and_sets_without_rows_have_no_samples() -> None:
    for extra in (
        {"regularizers": [fc.GroupL2(1.0, 2)]},
        {"constraints": [fc.L1Ball(1.0)]},
    ):
        problem = fc.Problem(N, lambda x, c: ((x - c) ** 4).sum(), {"c": fc.Param(N)}, **extra)
        program = problem.bind({**problem.constants, "c": points()}, B)
        with pytest.raises(fc.UnsupportedError, match=r"GroupL2|L1Ball"):
            program.sample(0)
    smooth = curved()
    program = smooth.bind(values(smooth, True), B)
    for index in (-1, B):
        with pytest.raises(IndexError, match=f"batch of {B}"):
            program.sample(index)


@PROBLEMS
def test_double_gives_float64(make) -> None:
    problem = make()
    given = {name: value.float() for name, value in values(problem, True).items()}
    program = problem.bind(given, B).double()
    exact = problem.bind({name: value.double() for name, value in given.items()}, B)
    x = points()
    assert program.dtype == torch.float64
    torch.testing.assert_close(program.objective(x), exact.objective(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(program.inequality(x), exact.inequality(x), rtol=1e-13, atol=1e-13)


def test_programs_pickle_with_their_functions() -> None:
    problem = nonlinear()
    program, x = problem.bind(values(problem, True), B), points()
    copy = pickle.loads(pickle.dumps(program.sample(1)))
    assert torch.equal(copy.hessian(x[1:2]), program.sample(1).hessian(x[1:2]))


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ({"regularizers": [fc.GroupL2(1.0, 2)]}, "GroupL2"),
        ({"constraints": [fc.L1Ball(1.0)]}, "L1Ball"),
    ],
)
def test_solvers_that_read_rows_refuse_what_has_none(extra, name: str) -> None:
    class Rows(fc.Solver):
        capabilities = fc.Capabilities(problem_classes=frozenset(fc.ProblemClass))

        def __init__(self) -> None: ...

        def open(self, structure: fc.ProgramStructure) -> fc.Session:
            raise NotImplementedError

    class Knows(Rows):
        capabilities = fc.Capabilities(
            problem_classes=frozenset(fc.ProblemClass), regularizers=True
        )

    class Iterates(Rows):
        capabilities = fc.Capabilities(problem_classes=frozenset(fc.ProblemClass), needs_rule=True)

    problem = fc.Problem(N, lambda x, c: ((x - c) ** 2).sum(), {"c": fc.Param(N)}, **extra)
    assert problem.lowered_structure.without_rows == (name,)
    assert name in str(Rows().unsupported_reason(problem.lowered_structure))
    assert Knows().unsupported_reason(problem.lowered_structure) is None
    assert Iterates().unsupported_reason(problem.lowered_structure) is None
    plain = fc.Problem(
        N, lambda x, c: ((x - c) ** 4).sum(), {"c": fc.Param(N)}, constraints=[fc.Simplex(1.0)]
    )
    assert Rows().unsupported_reason(plain.lowered_structure) is None
