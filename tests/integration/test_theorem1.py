"""Theorem 1 and its corollaries (Kotary, Dinh, Fioretto, section 5), measured.

At the fixed point the backward pass of unfolding is linear fixed-point iteration on (I - Φᵀ)v = g, so
its error falls by ρ(Φ) per step. Rates are fitted to the log-error over the last two thirds above
1e-11; fits of one-step ratios would be wrong for complex pairs of eigenvalues.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

pytest.importorskip("foldcore_pgd", reason="measures the rule foldcore-pgd")
pytest.importorskip("foldcore_lfpi", reason="compares with foldcore-lfpi")
pytest.importorskip("foldcore_direct", reason="takes its reference from foldcore-direct")
pytest.importorskip("foldcore_osqp", reason="solves with foldcore-osqp")

N = 12
FLOOR = 1e-11


def instance(rule: str, seed: int) -> tuple[fc.ParametricProblem, Tensor, Tensor]:
    """Return a box-constrained QP (or a lasso), its linear term and a cotangent."""
    data = random_qp(seed, N)
    problem: fc.ParametricProblem = declare(data, {"q"})
    if rule == "proximal":
        P = data["P"]
        problem = fc.Problem(
            N,
            lambda x, q: x @ P @ x / 2 + q @ x,
            {"q": fc.Param(N)},
            regularizers=[fc.L1(0.5)],
            convex=True,
        )
    generator = torch.Generator().manual_seed(1000 + seed)
    return problem, data["q"], torch.randn(N, generator=generator, dtype=torch.float64)


def known_solution(problem: fc.ParametricProblem, q: Tensor) -> fc.CallableSolver:
    """Return a black box that knows the answer: each instance is solved once, tightly."""
    key = (id(problem), id(q))
    if key not in _SOLVED:
        layer = fc.build(
            {"problem": problem, "solver": "osqp", "rule": "pgd", "adjoint": "direct",
             "fixed_point": {"polish": 3}}
            if not problem.structure.has_regularizers
            else {"problem": problem, "solver": "osqp", "rule": "proximal", "adjoint": "direct",
                  "fixed_point": {"polish": 500}}
        )  # fmt: skip
        with torch.no_grad():
            _SOLVED[key] = (layer(q=q), problem, q)  # keeps both alive, so that ids stay unique
    solution = _SOLVED[key][0]
    return fc.solver(lambda program: solution.expand(program.batch, N))


_SOLVED: dict[tuple[int, int], tuple[Tensor, fc.ParametricProblem, Tensor]] = {}


def gradient(
    problem: fc.ParametricProblem, q: Tensor, cotangent: Tensor, **config: object
) -> Tensor:
    layer = fc.build({"problem": problem, "solver": known_solution(problem, q), **config})
    leaf = q.clone().requires_grad_()
    (layer(q=leaf) * cotangent).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def spectral_radius(problem: fc.ParametricProblem, q: Tensor, rule: object) -> float:
    """Return ρ(Φ) from the assembled Φ, which no product-based estimate enters."""
    layer = fc.build(
        {"problem": problem, "solver": "osqp", "rule": rule, "adjoint": "direct",
         "fixed_point": {"polish": 3}}
    )  # fmt: skip
    program = problem.bind({**problem.constants, "q": q}, 1)
    solution = layer.solve(q=q[None])
    assert layer.rule is not None
    bound = layer.rule.bind(program, {})
    state = bound.lift(solution)
    jacobian = torch.func.jacrev(lambda z: bound.step(z[None])[0])(state[0])
    return float(torch.linalg.eigvals(jacobian).abs().max())


def fitted_rate(errors: list[float], ceiling: float = math.inf) -> float:
    """Return the slope of -log(error) over the last two thirds of the points above FLOOR.

    Args:
        ceiling: Leave out the points before the error first falls below it.
    """
    settled = next((k for k, e in enumerate(errors) if e < ceiling), 0)
    above = [(k, math.log(e)) for k, e in enumerate(errors) if k >= settled and e > FLOOR]
    tail = above[len(above) // 3 :]
    k, logs = np.array(tail).T
    return -float(np.polyfit(k, logs, 1)[0])


def unfolding_errors(
    problem: fc.ParametricProblem, q: Tensor, cotangent: Tensor, rule: object, counts: list[int],
    mode: str,
) -> list[float]:  # fmt: skip
    reference = gradient(
        problem, q, cotangent, rule=rule, adjoint={"kind": "direct", "rtol": 1e-13}
    )
    relaxed = {"kkt": {"on_violation": "ignore", "reject_above": 1e9}}
    return [
        float((gradient(problem, q, cotangent, rule=rule, mode=mode, iterations=k, **relaxed)
               - reference).norm())
        for k in counts
    ]  # fmt: skip


RULES = [
    pytest.param("pgd", id="pgd"),
    pytest.param(
        "admm",
        id="admm",
        marks=pytest.mark.skipif(
            "admm" not in fc.registry.update_rules.names(), reason="foldcore-admm is not installed"
        ),
    ),
    pytest.param(
        "proximal",
        id="proximal",
        marks=pytest.mark.skipif(
            "proximal" not in fc.registry.update_rules.names(),
            reason="foldcore-proximal is not installed",
        ),
    ),
]


@pytest.mark.parametrize("rule", RULES)
def test_theorem_1_rate_of_fixed_point_unfolding_is_minus_log_rho(rule: str) -> None:
    checked = 0
    for seed in range(40):
        problem, q, cotangent = instance(rule, seed)
        rho = spectral_radius(problem, q, rule)
        if not 0.3 < rho < 0.99:
            continue
        length = math.ceil(math.log(1e-10) / math.log(rho))
        stride = max(1, length // 60)
        counts = list(range(1, max(length, 30), stride))
        errors = unfolding_errors(problem, q, cotangent, rule, counts, "fixed_point_unfold")
        rate = fitted_rate(errors) / stride
        assert rate == pytest.approx(-math.log(rho), rel=0.02), f"seed {seed}, rho {rho}"
        checked += 1
        if checked == 3:
            return
    pytest.fail(f"only {checked} instances had a spectral radius within (0.3, 0.99)")


def test_corollary_1_lfpi_iterates_are_those_of_fixed_point_unfolding() -> None:
    """K steps of unfolding give v_{K-1}: the paper's (14) and (17a) count off by one."""
    problem, q, cotangent = instance("pgd", 1)
    for k in range(1, 25):
        unfolded = gradient(
            problem, q, cotangent, rule="pgd", mode="fixed_point_unfold", iterations=k
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fc.AdjointWarning)
            folded = gradient(
                problem, q, cotangent, rule="pgd", on_adjoint_failure="warn",
                adjoint={"kind": "lfpi", "rtol": 0.0, "max_iter": k},
            )  # fmt: skip
        assert (unfolded - folded).norm() <= 1e-12 * folded.norm(), k


@pytest.mark.parametrize("rule", RULES)
def test_corollary_2_unfolding_from_afar_is_no_faster_than_the_bound(rule: str) -> None:
    checked = 0
    for seed in range(40):
        problem, q, cotangent = instance(rule, seed)
        rho = spectral_radius(problem, q, rule)
        if not 0.3 < rho < 0.97:
            continue
        length = math.ceil(math.log(1e-11) / math.log(rho)) + 10
        stride = max(1, length // 60)
        counts = list(range(1, max(length, 30), stride))
        errors = unfolding_errors(problem, q, cotangent, rule, counts, "unfold")
        # The bound is asymptotic: it holds once the active set has settled, so fit below 1e-5.
        rate = fitted_rate(errors, ceiling=1e-5) / stride
        # 5%: a complex pair makes the error oscillate, and a fit over a broken period tilts.
        assert rate <= -math.log(rho) * 1.05, f"seed {seed}, rho {rho}"
        assert errors[-1] < 1e-6, "the unfolding should converge"
        checked += 1
        if checked == 2:
            return
    pytest.fail(f"only {checked} instances had a spectral radius within (0.3, 0.97)")
