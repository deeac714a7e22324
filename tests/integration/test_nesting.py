"""Folds within folds: ADMM solves the inner problems of PGD and SQP, two and three levels deep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp
from foldcore.testing.reference import QPReference

for name in ("admm", "pgd", "sqp", "newton", "osqp", "gmres", "direct"):
    pytest.importorskip(f"foldcore_{name}", reason=f"nesting is shown with foldcore-{name}")

Values = dict[str, Tensor]
Config = dict[str, Any]
N, P, M, B = 10, 2, 3, 6
GMRES: Config = {"kind": "gmres", "rtol": 1e-11}
ADMM: Config = {"kind": "admm", "rho": "auto", "over_relaxation": 1.6}
ITERATED: Config = {"solver": "iterate", "rule": ADMM, "adjoint": GMRES}
SOLVED: Config = {"solver": "osqp", "rule": ADMM, "adjoint": "direct"}
EXACT: Config = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}
INNER = [pytest.param(ITERATED, id="iterate"), pytest.param(SOLVED, id="osqp")]


def pgd(inner: Config, **options: Any) -> Config:
    return {"kind": "pgd", "projection": "inner", "inner": inner, **options}


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def data() -> Values:
    return random_qp(11, N, P, M, batch=B)


def leaves(data: Values) -> Values:
    return {k: v.clone().requires_grad_() for k, v in data.items()}


def solve_and_differentiate(
    data: Values, rule: Config, **config: Any
) -> tuple[fc.Solution, Values]:
    layer = fc.build(
        {"problem": declare(data, data), "solver": "osqp", "rule": rule, "adjoint": GMRES, **config}
    )
    params = leaves(data)
    solution = layer.solve(**params)
    (solution.primal * normal(B, N, seed=1)).sum().backward()
    return solution, params


def assert_exact(data: Values, solution: fc.Solution, params: Values) -> None:
    """Compare with the implicit KKT derivative, field by field and sample by sample."""
    cotangent = normal(B, N, seed=1)
    for i in range(B):
        reference = QPReference.from_guess(
            {k: v[i].numpy() for k, v in data.items()}, solution.primal[i].detach().numpy()
        )
        assert reference.free_directions >= 1, "the gradient of a vertex would prove little"
        for name, value in reference.gradients(cotangent[i].numpy()).items():
            expected, found = torch.from_numpy(value), params[name].grad
            assert found is not None
            size = max(float(expected.norm()), float(cotangent[i].norm()))
            assert (found[i] - expected).norm() <= 1e-6 * size, (name, i)


@pytest.mark.parametrize("inner", INNER)
def test_pgd_over_admm_has_exact_gradients(data: Values, inner: Config) -> None:
    solution, params = solve_and_differentiate(data, pgd(inner))
    assert solution.inner["rule.inner"].status == (fc.Status.OPTIMAL,) * B
    assert_exact(data, solution, params)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("dual_state", [False, True])
def test_sqp_over_admm_has_exact_gradients(data: Values, inner: Config, dual_state: bool) -> None:
    rule = {"kind": "sqp", "inner": inner, "dual_state": dual_state}
    solution, params = solve_and_differentiate(data, rule)
    assert_exact(data, solution, params)


def test_duals_are_handed_up_with_their_gradients(data: Values) -> None:
    """SQP's state takes its multipliers from ADMM; their gradients equal newton's own."""
    rules = ({"kind": "sqp", "inner": SOLVED, "dual_state": True}, {"kind": "newton"})
    answers = []
    for rule in rules:
        layer = fc.build(
            {"problem": declare(data, data), "solver": "osqp", "rule": rule, "adjoint": GMRES}
        )
        params = leaves(data)
        duals = layer.solve(**params).duals
        assert duals is not None
        stacked = torch.cat(list(vars(duals).values()), -1)
        (stacked * normal(*stacked.shape, seed=1)).sum().backward()
        answers.append((duals, params))
    (handed, given), (own, expected) = answers
    for name, value in vars(own).items():
        assert value.abs().max() > 0.1, name
        assert torch.allclose(getattr(handed, name), value, rtol=0, atol=1e-7), name
    for name in data:
        scale = max(float(expected[name].grad.norm()), 1.0)
        assert (given[name].grad - expected[name].grad).norm() <= 1e-6 * scale, name


def test_nonlinear_constraints_by_sqp_over_admm() -> None:
    """A nonquadratic objective and constraint, against central differences."""
    problem = fc.Problem(
        4,
        lambda x, c: ((x - c) ** 4).sum() + (x**2).sum(),
        {"c": fc.Param(4), "r": fc.Param()},
        inequality=lambda x, r: (x.exp().sum() - r).reshape(1),
        convex=True,
    )
    # The multipliers that ADMM hands up make the Newton steps converge quadratically.
    rule = {"kind": "sqp", "inner": SOLVED, "dual_state": True}
    polished: Config = {"fixed_point": {"polish": 8, "on_violation": "ignore"}}
    relaxed: Config = {"kkt": {"on_violation": "ignore", "reject_above": 1e3}}

    def start(program: fc.SmoothProgram) -> Tensor:
        return torch.full((program.batch, 4), 0.1, dtype=torch.float64)

    layer = fc.build(
        {"problem": problem, "solver": start, "rule": rule, "adjoint": "direct", **polished, **relaxed}
    )  # fmt: skip
    values = {
        "c": torch.linspace(0.5, 1.5, 8, dtype=torch.float64).reshape(2, 4),
        "r": torch.tensor([4.5, 5.0], dtype=torch.float64),
    }
    params = leaves(values)
    solution = layer.solve(**params)
    assert solution.kkt is not None
    assert solution.kkt.residual.max() < 1e-9
    weights = normal(2, 4, seed=1)
    (solution.primal * weights).sum().backward()
    step = 1e-5
    for seed, (name, value) in enumerate(values.items()):
        direction = normal(*value.shape, seed=5 + seed)
        with torch.no_grad():
            up, down = (layer(**{**values, name: value + s * step * direction}) for s in (1, -1))
        slope = float(((up - down) / (2 * step) * weights).sum())
        found = float((params[name].grad * direction).sum())
        assert abs(found - slope) <= 1e-6 * max(1.0, abs(slope)), name


DEEP = {
    "sqp over pgd over admm": {
        "kind": "sqp",
        "inner": {"solver": "osqp", "rule": pgd(SOLVED), "adjoint": GMRES},
    },
    "pgd over pgd over admm": pgd(
        {"solver": "osqp", "rule": pgd(SOLVED, step_size=0.7), "adjoint": GMRES}
    ),
    "pgd over iterated pgd over iterated admm": pgd(
        {"solver": "iterate", "rule": pgd(ITERATED, step_size=0.7), "adjoint": GMRES}
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_three_levels_have_exact_gradients_and_report_every_level(data: Values, name: str) -> None:
    """PGD's own step on a projection is 1, with Φ = 0; 0.7 gives the middle adjoint work to do."""
    solution, params = solve_and_differentiate(data, DEEP[name])
    assert set(solution.inner) == {"rule.inner", "rule.inner.rule.inner"}
    for report in solution.inner.values():
        assert report.status == (fc.Status.OPTIMAL,) * B
    assert_exact(data, solution, params)


@pytest.mark.parametrize("depth", [2, 3])
def test_nested_layers_solve_forward_too(depth: int) -> None:
    """No black box at the top: PGD's iteration calls the inner folds step by step."""
    small = random_qp(12, 5, 1, 2, batch=2)
    rule = pgd(ITERATED)
    if depth == 3:
        rule = pgd({"solver": "iterate", "rule": pgd(SOLVED, step_size=0.7), "adjoint": GMRES})
    solver = {"kind": "iterate", "rtol": 1e-9, "atol": 1e-9}
    forward = fc.build(
        {"problem": declare(small, small), "solver": solver, "rule": rule, "adjoint": GMRES}
    )
    exact = fc.build({"problem": declare(small, small), **EXACT})
    with torch.no_grad():
        found, expected = forward(**small), exact(**small)
    assert (found - expected).abs().max() < 1e-6


def test_an_inner_failure_fails_only_its_own_sample(data: Values) -> None:
    """Equalities that contradict each other leave one sample's inner problem without a point."""
    clean = fc.build(
        {"problem": declare(data, data), "solver": "osqp", "rule": pgd(SOLVED), "adjoint": GMRES}
    )
    broken = {k: v.clone() for k, v in data.items()}
    broken["A"][2, 1], broken["b"][2, 1] = broken["A"][2, 0], broken["b"][2, 0] + 1
    point = clean(**data).detach()
    layer = fc.build(
        {"problem": declare(broken, broken), "solver": fc.solver(lambda program: point),
         "rule": pgd(SOLVED), "adjoint": GMRES, "on_failure": "mask",
         "kkt": {"on_violation": "ignore", "reject_above": 1e9}}
    )  # fmt: skip
    params = leaves(broken)
    with pytest.warns(fc.SolveWarning, match="samples 2: inner_failure"):
        x = layer(**params)
    assert x.isnan().all(-1).nonzero().flatten().tolist() == [2]
    torch.nan_to_num(x).sum().backward()
    others = leaves(data)
    clean(**others).sum().backward()
    good = [i for i in range(B) if i != 2]
    for name in data:
        assert torch.equal(params[name].grad[2], torch.zeros_like(params[name].grad[2]))
        assert torch.allclose(params[name].grad[good], others[name].grad[good], rtol=0, atol=1e-7)
