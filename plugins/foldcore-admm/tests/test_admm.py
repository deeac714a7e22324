"""The ADMM rule: its iteration, fixed points, Jacobian, factorisation, options and failures."""

from __future__ import annotations

import pickle

import pytest
import torch
from foldcore_admm import ADMMConfig, ADMMRule
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

N, P, M, B = 8, 2, 3, 4
INF = float("inf")
Values = dict[str, Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def bound_rule(data: Values, batch: int, **options: object) -> fc.BoundRule:
    """Bind to data whose every field is a parameter."""
    problem = fc.QuadraticProgram(
        **{k: fc.Param(*v.shape[v.ndim - (2 if k in "PAG" else 1) :]) for k, v in data.items()}
    )
    return ADMMRule(ADMMConfig(**options)).bind(problem.bind(data, batch), {})


def iterated(bound: fc.BoundRule, steps: int = 4000) -> Tensor:
    state = bound.initial(None)
    for _ in range(steps):
        state = bound.step(state)
    return state


def rows(data: Values) -> Tensor:
    """Return C, (B, m, n)."""
    eye = torch.eye(data["P"].shape[-1], dtype=torch.float64).expand_as(data["P"])
    return torch.cat([data["G"], eye], dim=-2)


class Dense(fc.AdjointSolver):
    """The assembled system by LU, so that layers of this rule are tested without another plugin."""

    api_version = 1
    config_class = fc.PluginConfig

    def __init__(self, config: fc.PluginConfig) -> None:
        self.config = config

    def solve(self, operator: fc.FixedPointOperator, cotangent: Tensor) -> fc.AdjointSolution:
        every = torch.ones(operator.batch, dtype=torch.bool)
        found = fc.solve_dense(operator, cotangent, every)
        residual = cotangent - found.adjoint + operator.vjp(found.adjoint)
        norm = torch.linalg.vector_norm(residual, dim=-1)
        return fc.AdjointSolution(found.adjoint, norm, found.products, ~found.singular)


@pytest.fixture(scope="module")
def data() -> Values:
    return random_qp(0, N, P, M, batch=B)


def test_steps_are_the_three_of_the_paper() -> None:
    """Equation (29) literally, with C = I, l = 0, u = inf; the state is x_k + u_{k-1}."""
    qp = random_qp(3, N, P, bounds=False)
    rho = 0.7
    system = torch.cat(
        [
            torch.cat([qp["P"] + rho * torch.eye(N).double(), qp["A"].mT], 1),
            torch.cat([qp["A"], torch.zeros(P, P)], 1),
        ]
    )
    bound = bound_rule({**qp, "lower": torch.zeros(N).double()}, 1, rho=rho)
    w = normal(1, N)
    z, u = w[0].clamp(min=0), w[0] - w[0].clamp(min=0)
    for _ in range(10):
        x = torch.linalg.solve(system, torch.cat([rho * (z - u) - qp["q"], qp["b"]]))[:N]
        assert torch.allclose(bound.primal(w)[0], x, rtol=1e-13, atol=1e-13)
        argument = x + u
        z = argument.clamp(min=0)
        u = u + x - z
        w = bound.step(w)
        assert torch.allclose(w[0], argument, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"rho": 20.0}, {"rho": "auto", "over_relaxation": 1.6}])
def test_solutions_are_at_rest_and_other_points_move(
    data: Values, options: dict[str, object]
) -> None:
    first = bound_rule(data, B)
    state = iterated(first)
    x, duals = first.primal(state), first.duals(state)
    program = declare(data, data).bind(data, B)
    report, _ = fc.kkt_report(program, x, duals)
    assert report.residual.max() < 1e-12
    assert (report.margin > 1e-3).all(), "the instance should not be degenerate"
    bound = bound_rule(data, B, **options)
    for given in (duals, None):
        lifted = bound.lift(fc.Solution(x, (fc.Status.OPTIMAL,) * B, given))
        assert bound.residual(lifted, bound.step(lifted)).max() < 1e-11
        assert (bound.primal(lifted) - x).abs().max() < 1e-11
        found = bound.duals(lifted)
        assert found is not None
        for name, value in vars(duals).items():
            assert torch.allclose(getattr(found, name), value, rtol=0, atol=1e-10), name
    moved = bound.lift(fc.Solution(x + 0.01, (fc.Status.OPTIMAL,) * B, duals))
    assert bound.residual(moved, bound.step(moved)).min() > 1e-3


@pytest.mark.parametrize("rho", [1e-4, 1.0, 1e4])
def test_neither_a_tiny_nor_a_huge_penalty_hides_an_error(data: Values, rho: float) -> None:
    state = iterated(bound_rule(data, B))
    reference = bound_rule(data, B)
    x, duals = reference.primal(state), reference.duals(state)
    assert duals is not None
    bound = bound_rule(data, B, rho=rho)
    wrong_duals = duals.map(lambda v: v + 0.01 * (v > 0))
    for point, multipliers in ((x + 0.01, duals), (x, wrong_duals)):
        moved = bound.lift(fc.Solution(point, (fc.Status.OPTIMAL,) * B, multipliers))
        assert bound.residual(moved, bound.step(moved)).min() > 1e-4


def closed_form(data: Values, active: Tensor, rho: float, alpha: float) -> Tensor:
    """Return Φ = I + α(C S Cᵀρ(2D - I) - D), S the inverse of P + ρCᵀC on the null space of A."""
    found = []
    for i in range(B):
        c = rows(data)[i]
        null = torch.linalg.svd(data["A"][i]).Vh[P:].mT
        curved = data["P"][i] + rho * c.mT @ c
        inverse = null @ torch.linalg.inv(null.mT @ curved @ null) @ null.mT
        inside = torch.diag((~active[i]).double())
        eye = torch.eye(len(c), dtype=torch.float64)
        found.append(eye + alpha * (rho * c @ inverse @ c.mT @ (2 * inside - eye) - inside))
    return torch.stack(found)


@pytest.mark.parametrize(("rho", "alpha"), [(1.0, 1.0), (0.3, 1.6)])
def test_jacobian_for_the_active_set_has_its_closed_form(
    data: Values, rho: float, alpha: float
) -> None:
    bound = bound_rule(data, B, rho=rho, over_relaxation=alpha)
    state = iterated(bound)
    low = torch.cat([torch.full((B, M), -INF).double(), data["lower"]], -1)
    high = torch.cat([data["h"], data["upper"]], -1)
    active = (state < low) | (state > high)
    assert 0 < active.sum() < active.numel(), "the instance should have active and inactive rows"
    measured = torch.func.jacrev(lambda z: bound.step(z).sum(0))(state).transpose(0, 1)
    expected = closed_form(data, active, rho, alpha)
    assert torch.allclose(measured, expected, rtol=0, atol=1e-12)
    tangent, cotangent = normal(*state.shape, seed=1), normal(*state.shape, seed=2)
    _, pushed = torch.func.jvp(bound.step, (state,), (tangent,))
    (pulled,) = torch.func.vjp(bound.step, state)[1](cotangent)
    assert torch.allclose((pushed * cotangent).sum(-1), (tangent * pulled).sum(-1), rtol=1e-12)
    assert torch.allclose(pushed, (expected @ tangent.unsqueeze(-1)).squeeze(-1), atol=1e-12)


def test_iterate_solves_random_problems_and_stops_each_sample_by_itself() -> None:
    data = random_qp(4, 12, 3, 6, batch=8)
    config = {
        "solver": {"kind": "iterate", "rtol": 1e-11, "atol": 1e-11}, "rule": "admm",
        "adjoint": Dense,
    }  # fmt: skip
    layer = fc.build({"problem": declare(data, data), **config})
    together = layer.solve(**data)
    assert together.kkt is not None
    assert together.kkt.residual.max() < 1e-8
    assert len(set(together.iterations)) > 4
    for i in range(8):
        alone = layer.solve(**{k: v[i : i + 1] for k, v in data.items()})
        assert abs(alone.iterations[0] - together.iterations[i]) <= 1
        assert torch.allclose(alone.primal, together.primal[i : i + 1], rtol=0, atol=1e-10)


def test_a_linear_program_is_solved() -> None:
    data = random_qp(2, 6, 1, 4, batch=3)
    del data["P"]
    layer = fc.build(
        {"problem": declare(data, data), "solver": "iterate", "rule": "admm", "adjoint": Dense}
    )
    solution = layer.solve(**data)
    assert solution.kkt is not None
    assert solution.kkt.residual.max() < 1e-8


def test_a_step_of_a_batch_is_that_of_its_samples(data: Values) -> None:
    state = normal(B, M + N)
    together = bound_rule(data, B).step(state)
    for i in range(B):
        alone = bound_rule({k: v[i : i + 1] for k, v in data.items()}, 1).step(state[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("batched", "shape"),
    [
        # The curvature, and the Schur complement of the equalities.
        ("q", [(N, N), (P, P)]),
        ("h", [(N, N), (P, P)]),
        ("G", [(B, N, N), (B, P, P)]),
        ("P", [(B, N, N), (B, P, P)]),
        ("A", [(1, N, N), (B, P, P)]),
    ],
)
def test_shared_matrices_are_factored_once_for_the_batch(
    monkeypatch: pytest.MonkeyPatch, data: Values, batched: str, shape: list[tuple[int, ...]]
) -> None:
    factored: list[tuple[int, ...]] = []
    original = torch.linalg.cholesky_ex

    def spy(matrix: Tensor) -> object:
        factored.append(tuple(matrix.shape))
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", spy)
    mixed = {k: v if k == batched else v[0] for k, v in data.items()}
    bound = bound_rule(mixed, B)
    state = iterated(bound, 5)
    bound.primal(state), bound.duals(state)
    assert factored == shape
    full = {k: v if k == batched else v[:1].expand_as(v) for k, v in data.items()}
    assert torch.allclose(state, iterated(bound_rule(full, B), 5), rtol=1e-12, atol=1e-13)


def test_absent_rows_take_no_part() -> None:
    data = random_qp(5, N, 1, 3, batch=2)
    data["lower"][:, :4] = -INF
    data["upper"][:, 2:6] = INF
    data["h"][:, 1] = INF
    state = iterated(bound_rule(data, 2))
    bound = bound_rule(data, 2)
    duals = bound.duals(state)
    assert duals is not None
    assert torch.equal(duals.inequality[:, 1], torch.zeros(2).double())
    jacobian = torch.func.jacrev(lambda z: bound.step(z).sum(0))(state).transpose(0, 1)
    for row in (1, 3 + 2, 3 + 3):
        assert torch.equal(jacobian[:, :, row], torch.zeros_like(jacobian[:, :, row]))


def test_a_pinned_variable_without_a_multiplier_stays_pinned() -> None:
    """w equals both bounds exactly: neither w < l nor w > u, and z must not follow w."""
    pin = torch.full((1, 1), 0.5, dtype=torch.float64)
    data = {
        "P": torch.full((1, 1, 1), 3.0).double(),
        "q": -3 * pin,
        "lower": pin,
        "upper": pin.clone(),
    }
    bound = bound_rule(data, 1)
    assert torch.equal(bound.step(pin), pin)
    jacobian = torch.func.jacrev(bound.step)(pin).reshape(())
    assert jacobian == pytest.approx(0.75, abs=1e-15), "1 - ρ/(P + ρ) for an active row"


def test_failed_samples_fail_alone() -> None:
    data = random_qp(6, 5, 2, batch=3)
    clean = {k: v.clone() for k, v in data.items()}
    data["A"][1, 1] = 2 * data["A"][1, 0]
    data["b"][1, 1] = 2 * data["b"][1, 0] + 1  # a contradiction, not a copy
    bound = bound_rule(data, 3)
    failed = bound.failed()
    assert failed is not None
    assert failed.tolist() == [False, True, False]
    state = normal(3, 5)
    updated = bound.step(state)
    assert torch.isfinite(updated).all()
    assert bound.residual(state, updated).isinf().tolist() == [False, True, False]
    assert torch.allclose(updated[::2], bound_rule(clean, 3).step(state)[::2], rtol=1e-12)
    for solver in ("iterate", lambda program: torch.full((3, 5), 0.5).double()):
        layer = fc.build(
            {"problem": declare(data, data), "solver": solver, "rule": "admm",
             "adjoint": Dense, "on_failure": "mask",
             "kkt": {"on_violation": "ignore", "reject_above": 1e9},
             "fixed_point": {"on_violation": "ignore"}}
        )  # fmt: skip
        leaves = {k: v.clone().requires_grad_() for k, v in data.items()}
        with pytest.warns(fc.SolveWarning, match="samples 1"):
            x = layer(**leaves)
        assert x.isnan().all(-1).tolist() == [False, True, False]
        torch.nan_to_num(x).sum().backward()
        for leaf in leaves.values():
            assert torch.isfinite(leaf.grad).all()
            assert torch.equal(leaf.grad[1], torch.zeros_like(leaf.grad[1]))


def test_a_shared_singular_system_fails_every_sample() -> None:
    data = {"q": torch.ones(2, 3), "G": torch.tensor([[1.0, 1.0, 0.0]]), "h": torch.ones(1)}
    bound = bound_rule({k: v.double() for k, v in data.items()}, 2)
    failed = bound.failed()
    assert failed is not None
    assert failed.tolist() == [True, True]
    state = normal(2, 1)
    assert torch.equal(bound.step(state), state)


def test_float32_stays_float32(data: Values) -> None:
    single = {k: v.float() for k, v in data.items()}
    bound, double = bound_rule(single, B, rho="auto"), bound_rule(data, B, rho="auto")
    state = normal(B, M + N)
    updated = bound.step(state.float())
    assert updated.dtype == bound.primal(state.float()).dtype == torch.float32
    assert torch.allclose(updated.double(), double.step(state), rtol=1e-4, atol=1e-4)
    layer = fc.build(
        {"problem": declare(data, data), "solver": "iterate", "rule": "admm", "adjoint": Dense}
    )
    q = single["q"].clone().requires_grad_()
    x = layer(**{**single, "q": q})
    assert x.dtype == torch.float32
    x.sum().backward()
    assert q.grad.dtype == torch.float32


def test_automatic_penalty_follows_the_objective_s_unit_and_the_sample(data: Values) -> None:
    state = iterated(bound_rule(data, B, rho="auto"), 7)
    unit = {**data, "P": 1e3 * data["P"], "q": 1e3 * data["q"]}
    assert torch.allclose(iterated(bound_rule(unit, B, rho="auto"), 7), state, rtol=1e-10)
    assert not torch.allclose(iterated(bound_rule(unit, B), 7), state, rtol=1e-2)
    expected = data["P"].diagonal(dim1=-2, dim2=-1).sum(-1) / rows(data).square().sum((-2, -1))
    for i in range(B):
        one = {k: v[i : i + 1] for k, v in data.items()}
        given = iterated(bound_rule(one, 1, rho=float(expected[i])), 7)
        assert torch.allclose(state[i : i + 1], given, rtol=1e-12, atol=1e-13)
    without = {k: v for k, v in data.items() if k != "P"}
    assert torch.equal(
        iterated(bound_rule(without, B, rho="auto"), 3), iterated(bound_rule(without, B), 3)
    )


def test_penalty_and_relaxation_reach_the_iteration(data: Values) -> None:
    counts = {}
    for name, options in {
        "default": {}, "badly scaled": {"rho": 0.1}, "relaxed": {"over_relaxation": 1.6},
    }.items():  # fmt: skip
        layer = fc.build(
            {"problem": declare(data, data), "solver": "iterate",
             "rule": {"kind": "admm", **options}, "adjoint": Dense}
        )  # fmt: skip
        counts[name] = sum(layer.solve(**data).iterations)
    assert counts["relaxed"] < 0.8 * counts["default"]
    assert counts["badly scaled"] > 3 * counts["default"]


@pytest.mark.parametrize(
    "option",
    [{"rho": 0.0}, {"rho": -1.0}, {"rho": INF}, {"rho": "fast"}, {"over_relaxation": 2.0},
     {"over_relaxation": 0.0}],
)  # fmt: skip
def test_options_outside_their_range_are_refused(option: dict[str, object]) -> None:
    problem = fc.QuadraticProgram(P=torch.eye(2), q=fc.Param(2), lower=torch.zeros(2))
    name = next(iter(option))
    with pytest.raises(fc.ConfigError, match=rf"rule\.{name}"):
        fc.build({"problem": problem, "solver": "iterate", "rule": {"kind": "admm", **option}})


def test_unsupported_problems_are_refused_with_the_reason() -> None:
    def reason(problem: fc.ParametricProblem) -> str:
        return str(ADMMRule(ADMMConfig()).unsupported_reason(problem.structure))

    def square(x: Tensor) -> Tensor:
        return x.square().sum()

    assert "not recognised as quadratic" in reason(fc.Problem(2, lambda x: x.exp().sum()))
    curved = fc.Problem(2, square, inequality=lambda x: (x.exp().sum() - 3).reshape(1))
    assert "not recognised as linear" in reason(curved)
    assert "nonsmooth" in reason(fc.Problem(2, square, regularizers=[fc.L1(0.1)]))
    assert "quadratic constraints" in reason(fc.Problem(2, square, constraints=[fc.L2Ball(1.0)]))
    assert "L1Ball" in reason(fc.Problem(2, square, constraints=[fc.L1Ball(1.0)]))
    assert reason(fc.QuadraticProgram(q=fc.Param(2), lower=torch.zeros(2))) == "None"


def test_iteration_is_offered_where_the_problem_is_convex() -> None:
    rule = ADMMRule(ADMMConfig())
    convex = fc.QuadraticProgram(P=torch.eye(2), q=fc.Param(2), lower=torch.zeros(2))
    assert rule.converges(convex.structure)
    concave = fc.QuadraticProgram(P=-torch.eye(2), q=fc.Param(2), lower=torch.zeros(2))
    assert not rule.converges(concave.structure)


def test_rule_is_picklable() -> None:
    assert isinstance(pickle.loads(pickle.dumps(ADMMRule(ADMMConfig()))), ADMMRule)
