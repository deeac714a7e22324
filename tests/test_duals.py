"""Recovered multipliers: exact, of the right signs, differentiable, honest where not unique."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

N, B = 4, 3
EYE = torch.eye(N, dtype=torch.float64)


def bind(**fields: Tensor) -> fc.SmoothProgram:
    problem = fc.QuadraticProgram(**fields)
    return problem.bind(dict(problem.constants), 1)


def planted(seed: int, batch: int = B) -> tuple[fc.SmoothProgram, Tensor, fc.Duals]:
    """Return QPs whose solution and multipliers are chosen first: q makes them optimal."""
    data = random_qp(seed, 8, n_equality=2, n_inequality=4, batch=batch)
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return 0.5 + torch.rand(*shape, generator=generator, dtype=torch.float64)

    x = torch.full((batch, 8), 0.5, dtype=torch.float64)
    data["lower"][:, 0], data["upper"][:, 1] = 0.5, 0.5
    data["h"][:, :2] = (data["G"][:, :2] @ x.unsqueeze(-1)).squeeze(-1)
    duals = fc.Duals(
        uniform(batch, 2) - 1.0, uniform(batch, 4), uniform(batch, 8), uniform(batch, 8)
    )
    duals.inequality[:, 2:] = 0.0
    duals.lower[:, 1:], duals.upper[:, 0], duals.upper[:, 2:] = 0.0, 0.0, 0.0
    pull = (data["A"].mT @ duals.equality.unsqueeze(-1)).squeeze(-1)
    pull = pull + (data["G"].mT @ duals.inequality.unsqueeze(-1)).squeeze(-1)
    data["q"] = -(data["P"] @ x.unsqueeze(-1)).squeeze(-1) - pull + duals.lower - duals.upper
    problem = declare({k: v[0] for k, v in data.items()}, set(data))
    return problem.bind(data, batch), x, duals


@pytest.mark.parametrize("seed", range(5))
def test_planted_multipliers_are_found(seed: int) -> None:
    program, x, expected = planted(seed)
    found = fc.recover_duals(program, x)
    assert found.unique.all()
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found.duals, name), value, rtol=1e-10, atol=1e-10)


def test_signs_are_respected_where_the_point_is_no_solution() -> None:
    program, x, _ = planted(0)
    wrong = fc.SmoothProgram(
        fc.QuadraticData(**{**vars(program.data), "q": -program.data.q}),
        batch=B, structure=program.structure, params=program.params,
    )  # fmt: skip
    found = fc.recover_duals(wrong, x)
    for name in ("inequality", "lower", "upper"):
        assert (getattr(found.duals, name) >= 0).all(), name
    assert wrong.lagrangian_gradient(x, found.duals).abs().amax(-1).min() > 0.1


@pytest.mark.parametrize("factor", [1.0, 2.0, 1e4])
def test_dependent_inequalities_are_explained_and_reported(factor: float) -> None:
    """Two rows say the same: multipliers are not unique, but some explain the point."""
    row = torch.ones(1, N, dtype=torch.float64)
    program = bind(
        P=EYE, G=torch.cat([row, factor * row]),
        h=torch.tensor([-1.0, -factor], dtype=torch.float64),
    )  # fmt: skip
    x = torch.full((1, N), -1 / N, dtype=torch.float64)
    found = fc.recover_duals(program, x)
    assert not found.unique.any()
    assert program.lagrangian_gradient(x, found.duals).abs().max() < 1e-12
    assert (found.duals.inequality >= 0).all()


def test_dependent_equalities_are_explained_and_reported() -> None:
    row = torch.ones(1, N, dtype=torch.float64)
    program = bind(P=EYE, A=torch.cat([row, -3 * row]), b=torch.tensor([1.0, -3.0]).double())
    x = torch.full((1, N), 1 / N, dtype=torch.float64)
    found = fc.recover_duals(program, x)
    assert not found.unique.any()
    assert program.lagrangian_gradient(x, found.duals).abs().max() < 1e-12


def test_an_inequality_that_only_repeats_a_bound() -> None:
    program = bind(
        P=EYE, q=EYE[0] * 3, lower=torch.zeros(N, dtype=torch.float64), G=-EYE[:1],
        h=torch.zeros(1, dtype=torch.float64),
    )  # fmt: skip
    x = torch.zeros(1, N, dtype=torch.float64)
    found = fc.recover_duals(program, x)
    assert not found.unique.any()
    assert program.lagrangian_gradient(x, found.duals).abs().max() < 1e-12


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1e6])
def test_independence_does_not_depend_on_units(unit: float) -> None:
    """A tiny row beside an inactive one is a row like any other."""
    G = torch.stack([unit * EYE[0] + unit * EYE[1], EYE[2]])
    program = bind(P=EYE, G=G, h=torch.tensor([-unit, 5.0], dtype=torch.float64))
    x = torch.tensor([[-0.5, -0.5, 0.0, 0.0]], dtype=torch.float64)
    found = fc.recover_duals(program, x)
    assert found.unique.all()
    expected = torch.tensor([[0.5 / unit, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found.duals.inequality, expected, rtol=1e-10, atol=0)


def test_slack_is_judged_relative_to_the_bound() -> None:
    """At h = 1e7 a slack of 1e-3 is a relative error of 1e-10, and the row is active."""
    row = torch.ones(1, N, dtype=torch.float64)
    program = bind(P=EYE, G=-row, h=torch.tensor([-1e7], dtype=torch.float64))
    x = torch.full((1, N), (1e7 + 1e-3) / N, dtype=torch.float64)
    found = fc.recover_duals(program, x)
    assert found.duals.inequality[0, 0] > 1e6


def test_pinned_variables_and_absent_bounds() -> None:
    inf = float("inf")
    program = bind(
        P=EYE, q=torch.tensor([1.0, -1.0, 2.0, 0.0]).double(),
        lower=torch.tensor([0.0, 0.0, -inf, -inf]).double(),
        upper=torch.tensor([0.0, 0.0, inf, inf]).double(),
    )  # fmt: skip
    x = torch.tensor([[0.0, 0.0, -2.0, 0.0]], dtype=torch.float64)
    duals = fc.recover_duals(program, x).duals
    assert torch.equal(duals.lower, torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
    assert torch.equal(duals.upper, torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64))


def test_each_sample_is_fitted_by_itself() -> None:
    """One sample with dependent rows sends no other through the slow path's rounding."""
    program, x, _ = planted(0)
    alone = fc.recover_duals(program, x).duals
    assert isinstance(program.data.G, Tensor)
    assert program.data.h is not None
    G, h = program.data.G.clone(), program.data.h.clone()
    G[1, 1], h[1, 1] = G[1, 0], h[1, 0]
    mixed = fc.SmoothProgram(
        fc.QuadraticData(**{**vars(program.data), "G": G, "h": h}),
        batch=B, structure=program.structure, params=program.params,
    )  # fmt: skip
    together = fc.recover_duals(mixed, x)
    assert together.unique.tolist() == [True, False, True]
    for name, value in vars(alone).items():
        assert torch.equal(getattr(together.duals, name)[[0, 2]], value[[0, 2]]), name


def test_gradients_hold_on_the_fixed_active_set() -> None:
    program, x, _ = planted(0)
    q = program.data.q.clone()

    def multipliers(q: Tensor, b: Tensor) -> Tensor:
        moved = fc.SmoothProgram(
            fc.QuadraticData(**{**vars(program.data), "q": q, "b": b}),
            batch=B, structure=program.structure, params=program.params,
        )  # fmt: skip
        duals = fc.recover_duals(moved, x).duals
        return torch.cat(list(vars(duals).values()), -1)

    leaves = (q.requires_grad_(), program.data.b.clone().requires_grad_())
    assert torch.autograd.gradcheck(multipliers, leaves, atol=1e-6, rtol=1e-6)


def test_absent_bounds_beside_present_ones_are_never_active() -> None:
    """Minimise ½‖x - y‖² with x_0 >= 1 and x_1 <= 2 alone: only those two carry multipliers."""
    inf = float("inf")
    program = bind(
        P=EYE, q=torch.tensor([0.0, -5.0, -7.0, 1.0]).double(),
        lower=torch.tensor([1.0, -inf, -inf, -inf]).double(),
        upper=torch.tensor([inf, 2.0, inf, inf]).double(),
    )  # fmt: skip
    x = torch.tensor([[1.0, 2.0, 6.0, -1.0]], dtype=torch.float64)
    duals = fc.recover_duals(program, x).duals
    assert torch.equal(duals.lower, torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
    # x_2 is not at rest: a bound that is absent must not explain its residual away.
    assert torch.equal(duals.upper, torch.tensor([[0.0, 3.0, 0.0, 0.0]], dtype=torch.float64))


def test_a_point_whose_gradient_overflows_is_left_without_multipliers() -> None:
    """The fit of a far point cannot be made; that of the others is what it is without it."""
    data = random_qp(3, 4, n_equality=1, n_inequality=2, batch=2)
    problem = declare({k: v[0] for k, v in data.items()}, set(data))
    program = problem.bind({**problem.constants, **data}, 2)
    x = torch.zeros(2, 4, dtype=torch.float64)
    expected = fc.recover_duals(program, x).duals
    x[1] = 1e308
    found = fc.recover_duals(program, x)
    for name, value in vars(found.duals).items():
        assert torch.equal(value[0], getattr(expected, name)[0]), name
    assert not fc.kkt_report(program, x)[0].residual[1] < 1
