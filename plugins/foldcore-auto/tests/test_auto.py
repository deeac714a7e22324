"""The cascade against dense solves, on systems that defeat each stage in turn, and its reports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from foldcore_auto import AutoAdjoint, AutoConfig
from pydantic import ValidationError
from torch import Tensor

from foldcore import ZeroOperator
from foldcore.testing import (
    MatrixOperator,
    random_cotangent,
    random_matrix,
    reference_adjoint,
)

VARIANTS = [
    {},
    {"check_unique": False},
    {"contraction_steps": 0, "restart": 3},
    {"restart": 3, "dense_limit": 0},
    {"max_iter": 1},
]


def adjoint_solver(**options: float) -> AutoAdjoint:
    return AutoAdjoint(AutoConfig.model_validate(options))


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float((value.double() - reference).norm() / reference.norm())


@pytest.fixture(params=VARIANTS, ids=str)
def solver(request: pytest.FixtureRequest) -> AutoAdjoint:
    return adjoint_solver(rtol=1e-12, **request.param)


def test_a_zero_matrix_that_is_not_declared_works_too(solver: AutoAdjoint) -> None:
    cotangent = random_cotangent(3, 6)
    answer = solver.solve(MatrixOperator(torch.zeros(3, 6, 6, dtype=torch.float64)), cotangent)
    assert torch.equal(answer.adjoint, cotangent)
    assert answer.converged.all()
    assert set(answer.solved_by) == {"lfpi"}


def test_rtol_and_atol_decide_what_counts_as_converged() -> None:
    matrix, cotangent = random_matrix(2, 20, 0.9), random_cotangent(2, 20)
    loose = adjoint_solver(rtol=1e-2).solve(MatrixOperator(matrix), cotangent)
    tight = adjoint_solver(rtol=1e-10).solve(MatrixOperator(matrix), cotangent)
    absolute = adjoint_solver(rtol=1e-10, atol=1e-2).solve(MatrixOperator(matrix), cotangent)
    for answer in (loose, tight, absolute):
        assert answer.converged.all()
    assert (loose.iterations < tight.iterations).all()
    assert (absolute.iterations < tight.iterations).all()
    assert (absolute.residual <= 1e-2).all()
    assert (loose.residual > 1e-10 * cotangent.norm(dim=-1)).all()


# Systems that one stage after the other cannot serve.


def contraction(batch: int = 3, size: int = 40) -> Tensor:
    return random_matrix(batch, size, 0.2)


def expansive(batch: int = 3, size: int = 40) -> Tensor:
    """ρ(Φ) = 1.4: fixed-point iteration diverges."""
    return random_matrix(batch, size, 1.4)


def cyclic(batch: int = 3, size: int = 40) -> Tensor:
    """I - Φᵀ is a cyclic shift: GMRES makes no progress at all in fewer than s steps."""
    shift = torch.roll(torch.eye(size, dtype=torch.float64), 1, 0)
    return (torch.eye(size, dtype=torch.float64) - shift).expand(batch, size, size).clone()


def nonnormal(batch: int = 3, size: int = 40) -> Tensor:
    """Nilpotent Φ whose powers first grow by 1.25^39: 20 steps of contraction say nothing."""
    rows = torch.diag(torch.full((size - 1,), 1.25, dtype=torch.float64), 1)
    return rows.expand(batch, size, size).clone()


def indefinite(batch: int = 3, size: int = 40) -> Tensor:
    """Symmetric Φ with eigenvalues on both sides of 1: conjugate gradients break down."""
    matrix = random_matrix(batch, size, 1.0)
    matrix = matrix + matrix.mT
    return 3 * matrix / torch.linalg.eigvalsh(matrix).abs().amax(-1)[:, None, None]


DEFEATS: list[tuple[str, Callable[[], Tensor], str]] = [
    ("nothing", contraction, "lfpi"),
    ("fixed-point iteration", expansive, "gmres"),
    ("small restarts", cyclic, "lu"),
    ("contraction and small restarts", nonnormal, "lu"),
    ("conjugate gradients", indefinite, "lu"),
]


@pytest.mark.parametrize(("defeated", "make", "served"), DEFEATS, ids=[case[0] for case in DEFEATS])
def test_every_instance_is_served_and_says_by_what(
    defeated: str, make: Callable[[], Tensor], served: str
) -> None:
    matrix, cotangent = make(), random_cotangent(3, 40)
    restart = 50 if served == "gmres" else 5
    answer = adjoint_solver(rtol=1e-10, restart=restart).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-9
    assert answer.solved_by == (served,) * 3
    assert answer.null_vector is None
    words = {"lfpi": "Φ contracts", "gmres": "lfpi gave up", "lu": "gmres(5) gave up"}
    assert all(words[served] in message for message in answer.messages)


def test_the_instances_defeat_what_they_claim_to() -> None:
    """Planted: without the later stages the same instances are not served."""
    cotangent = random_cotangent(3, 40)
    for make in (expansive, cyclic, nonnormal, indefinite):
        answer = adjoint_solver(restart=5, dense_limit=0, max_iter=300).solve(
            MatrixOperator(make()), cotangent
        )
        assert not answer.converged.any(), make.__name__
        assert answer.solved_by == ("unsolved",) * 3
        assert all("above dense_limit" in message for message in answer.messages)
    for make in (expansive, indefinite):
        largest = torch.linalg.eigvals(make()).abs().amax(-1)
        assert (largest > 1).all(), "fixed-point iteration diverges"
    values = torch.linalg.eigvalsh(torch.eye(40, dtype=torch.float64) - indefinite())
    assert ((values[:, 0] < 0) & (values[:, -1] > 0)).all()


def test_each_sample_of_a_batch_by_its_own_method() -> None:
    matrix = torch.cat(
        [contraction(1), random_matrix(1, 40, 0.7), cyclic(1), singular(1), singular(1)]
    )
    cotangent = random_cotangent(5, 40)
    cotangent[3, 0] = 0
    answer = adjoint_solver(rtol=1e-10, restart=20).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.tolist() == [True, True, True, True, False]
    assert answer.solved_by == ("lfpi", "gmres", "lu", "minimum_norm", "unsolved")
    for i in range(5):
        alone = adjoint_solver(rtol=1e-10, restart=20).solve(
            MatrixOperator(matrix[i : i + 1]), cotangent[i : i + 1]
        )
        assert alone.solved_by[0] == answer.solved_by[i]
        assert relative_error(answer.adjoint[i], alone.adjoint[0]) < 1e-9


def test_served_samples_are_frozen_whatever_stages_the_others_need() -> None:
    cotangent = random_cotangent(4, 40)
    results = []
    for other in (contraction, expansive, cyclic, nonnormal, singular):
        matrix = other(4)
        matrix[1], matrix[2] = contraction(1)[0], cyclic(1)[0]
        results.append(adjoint_solver(restart=5).solve(MatrixOperator(matrix), cotangent))
    for answer in results[1:]:
        for name in ("adjoint", "residual", "iterations", "converged"):
            assert torch.equal(getattr(answer, name)[1:3], getattr(results[0], name)[1:3]), name
        assert answer.solved_by[1:3] == ("lfpi", "lu")


def singular(batch: int = 3, size: int = 40) -> Tensor:
    """Φ e₀ = e₀ = Φᵀ e₀: solvable where g₀ = 0, and v₀ is free."""
    matrix = random_matrix(batch, size, 0.3)
    matrix[:, :, 0] = 0
    matrix[:, 0, :] = 0
    matrix[:, 0, 0] = 1
    return matrix


@pytest.mark.parametrize("shared", [False, True])
def test_singular_and_consistent(shared: bool) -> None:
    """Iteration would serve these samples, and not notice that v is not unique."""
    matrix, cotangent = singular(), random_cotangent(3, 40)
    if shared:
        matrix = matrix[:1].expand(3, 40, 40)
    cotangent[:, 0] = 0
    operator = MatrixOperator(matrix[0], batch=3) if shared else MatrixOperator(matrix)
    answer = adjoint_solver(rtol=1e-11).solve(operator, cotangent)
    assert answer.converged.all()
    assert answer.solved_by == ("minimum_norm",) * 3
    assert all("singular and g lies in its range" in message for message in answer.messages)
    assert answer.adjoint[:, 0].abs().max() < 1e-12, "of least norm"
    inner = reference_adjoint(matrix[:, 1:, 1:], cotangent[:, 1:])
    assert relative_error(answer.adjoint[:, 1:], inner) < 1e-10
    unit = torch.eye(40, dtype=torch.float64)[0].expand(3, 40)
    assert answer.null_vector is not None
    assert torch.allclose(answer.null_vector.abs(), unit, atol=1e-10)


def test_null_vectors_belong_to_singular_samples_alone() -> None:
    matrix, cotangent = singular(), random_cotangent(3, 40)
    matrix[1] = contraction(1)[0]
    cotangent[:, 0] = 0
    answer = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    assert answer.null_vector is not None
    assert answer.null_vector.norm(dim=-1).round().tolist() == [1, 0, 1]
    assert answer.solved_by == ("minimum_norm", "lfpi", "minimum_norm")


def test_singular_and_inconsistent_is_reported() -> None:
    matrix, cotangent = singular(), random_cotangent(3, 40)
    cotangent[:, 0] = 1
    answer = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    assert not answer.converged.any()
    assert answer.null_vector is None
    assert answer.solved_by == ("unsolved",) * 3
    assert all("g does not lie in its range" in message for message in answer.messages)
    assert torch.allclose(answer.residual, torch.ones(3, dtype=torch.float64), rtol=1e-10)


def test_a_null_space_is_found_by_products_where_no_matrix_is_assembled() -> None:
    matrix, cotangent = singular(), random_cotangent(3, 40)
    matrix[1] = contraction(1)[0]
    cotangent[:, 0] = 0
    answer = adjoint_solver(dense_limit=39).solve(MatrixOperator(matrix), cotangent)
    assert answer.converged.all()
    assert answer.null_vector is not None
    assert answer.null_vector.norm(dim=-1).round().tolist() == [1, 0, 1]
    left = answer.null_vector - torch.einsum("bij,bi->bj", matrix, answer.null_vector)
    assert left.norm(dim=-1).max() < 1e-12


def test_an_ill_conditioned_matrix_is_not_taken_for_a_singular_one() -> None:
    """I - Φᵀ = diag(1e-9, ½): products alone cannot tell, LU can."""
    matrix = torch.diag(torch.tensor([1 - 1e-9] + [0.5] * 5, dtype=torch.float64))
    cotangent = random_cotangent(1, 6)
    cotangent[:, 0] = 0
    answer = adjoint_solver().solve(MatrixOperator(matrix, batch=1), cotangent)
    assert answer.solved_by == ("gmres",)
    assert answer.null_vector is None
    assert answer.iterations > 6, "it was looked at densely"


def test_a_probe_that_ran_out_of_products_accuses_nobody() -> None:
    matrix = torch.diag(torch.linspace(0, 0.99, 40, dtype=torch.float64))
    cotangent = torch.eye(40, dtype=torch.float64)[:1]
    answer = adjoint_solver(dense_limit=0, restart=2, max_iter=6).solve(
        MatrixOperator(matrix, batch=1), cotangent
    )
    assert answer.converged.all()
    assert answer.null_vector is None


def test_gmres_gets_no_more_products_than_the_matrix_costs() -> None:
    matrix, cotangent = random_matrix(2, 40, 0.97), random_cotangent(2, 40)
    answer = adjoint_solver(restart=8).solve(MatrixOperator(matrix), cotangent)
    assert answer.solved_by == ("lu", "lu")
    assert (answer.iterations <= 1 + 20 + (40 + 2) + 40 + 3).all()
    free = adjoint_solver(restart=8, dense_limit=0, check_unique=False).solve(
        MatrixOperator(matrix), cotangent
    )
    assert free.converged.all()
    assert free.iterations.max() > 1 + 20 + (40 + 2), "without the matrix it would go on"


def test_check_unique_decides_whether_iteration_is_trusted() -> None:
    matrix, cotangent = singular(), random_cotangent(3, 40)
    cotangent[:, 0] = 0
    checked = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    trusting = adjoint_solver(check_unique=False).solve(MatrixOperator(matrix), cotangent)
    assert trusting.null_vector is None
    assert trusting.converged.all()
    assert trusting.solved_by == ("lfpi",) * 3 or trusting.solved_by == ("gmres",) * 3
    assert (trusting.iterations < checked.iterations).all()


def test_contraction_steps_bounds_the_first_stage() -> None:
    matrix, cotangent = random_matrix(2, 40, 0.5), random_cotangent(2, 40)
    many = adjoint_solver(contraction_steps=60, check_unique=False)
    none = adjoint_solver(contraction_steps=0, check_unique=False)
    answer = many.solve(MatrixOperator(matrix), cotangent)
    assert answer.solved_by == ("lfpi", "lfpi")
    assert answer.iterations.max() <= 61
    assert none.solve(MatrixOperator(matrix), cotangent).solved_by == ("gmres", "gmres")


def test_the_rate_test_saves_steps_that_cannot_do() -> None:
    """At ρ = 0.99 it takes about 1800 steps; the first three tell."""
    matrix = 0.99 * torch.eye(5, dtype=torch.float64)
    operator = MatrixOperator(matrix, batch=2)
    answer = adjoint_solver(check_unique=False).solve(operator, random_cotangent(2, 5))
    assert answer.solved_by == ("gmres", "gmres")
    assert answer.iterations.tolist() == [1 + 3 + 2] * 2
    assert "a step leaves 0.99 of the residual" in answer.messages[0]


def test_max_iter_and_restart_bound_the_iterative_stages() -> None:
    matrix, cotangent = expansive(2), random_cotangent(2, 40)
    short = adjoint_solver(max_iter=10, dense_limit=0).solve(MatrixOperator(matrix), cotangent)
    assert not short.converged.any()
    assert (short.iterations <= 10).all()
    assert adjoint_solver(restart=40).solve(MatrixOperator(matrix), cotangent).solved_by == (
        "gmres",
        "gmres",
    )
    assert adjoint_solver(restart=5).solve(MatrixOperator(matrix), cotangent).solved_by == (
        "lu",
        "lu",
    )


class Direct(MatrixOperator):
    """Knows a direct way, possibly a wrong one."""

    factor = 1.0

    def solve_transposed(self, cotangent: Tensor) -> Tensor:
        return self.factor * reference_adjoint(self.matrix, cotangent)


@pytest.mark.parametrize(("factor", "served"), [(1.0, "rule"), (1 + 1e-6, "rule"), (-7.0, "lfpi")])
def test_the_rules_own_way_comes_first_and_is_measured(factor: float, served: str) -> None:
    matrix, cotangent = contraction(), random_cotangent(3, 40)
    operator = Direct(matrix)
    operator.factor = factor
    answer = adjoint_solver(rtol=1e-9).solve(operator, cotangent)
    assert answer.converged.all()
    assert answer.solved_by == (served,) * 3
    assert relative_error(answer.adjoint, reference_adjoint(matrix, cotangent)) < 1e-8


def test_trivial_samples_say_so() -> None:
    matrix, cotangent = contraction(), random_cotangent(3, 40)
    cotangent[1] = 0
    answer = adjoint_solver().solve(MatrixOperator(matrix), cotangent)
    assert answer.solved_by == ("lfpi", "trivial", "lfpi")
    assert answer.messages[1] == "g = 0"
    assert adjoint_solver().solve(ZeroOperator(cotangent), cotangent).solved_by == ("trivial",) * 3


def test_options_out_of_range_are_refused() -> None:
    bad = ({"max_iter": 0}, {"rtol": -1.0}, {"restart": 0}, {"dense_limit": -1}, {"anderson": 3})
    for options in (*bad, {"contraction_steps": -1}):
        with pytest.raises(ValidationError):
            AutoConfig.model_validate(options)
