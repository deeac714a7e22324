"""Every cell of rule x adjoint x mode: the right gradient, or the right error, stated with its reason."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.registry.discovery import known_packages

for name in ("pgd", "direct"):
    pytest.importorskip(f"foldcore_{name}", reason=f"the matrix needs foldcore-{name}")

F64 = torch.float64
N, B = 4, 2
MODES = ("fold", "fixed_point_unfold", "unfold", "unroll")
ITERATE = {"kind": "iterate", "rtol": 1e-14, "atol": 1e-14, "max_iter": 100000}
TOLERANCE = 1e-6
STEP = 1e-5


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@dataclass(frozen=True)
class Case:
    """A problem, its parameters, and the rule whose iteration finds its solutions."""

    problem: fc.ParametricProblem
    values: dict[str, Tensor]
    reference_rule: str


def box_qp() -> Case:
    factor = normal(N, N, seed=3) / 4
    problem = fc.QuadraticProgram(
        P=factor @ factor.mT + torch.eye(N, dtype=F64) / 2,
        q=fc.Param(N), lower=fc.Param(N), upper=fc.Param(N),
    )  # fmt: skip
    values = {
        "q": 0.6 * normal(B, N, seed=4),
        "lower": -0.6 - 0.1 * normal(N, seed=5).abs(),
        "upper": 0.6 + 0.1 * normal(B, N, seed=6).abs(),
    }
    return Case(problem, values, "pgd")


def lasso() -> Case:
    matrix = normal(6, N, seed=1) / 2
    problem = fc.Problem(
        N,
        lambda x, y: ((matrix @ x - y) ** 2).sum() / 2,
        {"y": fc.Param(6)},
        regularizers=[fc.L1(fc.Param())],
    )
    values = {"y": normal(B, 6, seed=2), "weight": torch.tensor(0.3, dtype=F64)}
    return Case(problem, values, "proximal")


def denoising() -> Case:
    problem = fc.Problem(
        N,
        lambda x, d: ((x - d) ** 2).sum() / 2,
        {"d": fc.Param(N)},
        regularizers=[fc.L1(fc.Param(), fc.Param(2, N, name="D"))],
    )
    values = {
        "d": normal(B, N, seed=7),
        "D": normal(2, N, seed=8),
        "weight": torch.tensor(0.2, dtype=F64),
    }
    return Case(problem, values, "fdpg")


CASES = {"box": box_qp, "lasso": lasso, "denoising": denoising}


@dataclass(frozen=True)
class Row:
    """A rule as configured for the matrix.

    Attributes:
        case: Its problem.
        rule: Its configuration; ``unrolled`` is that of mode unroll where it differs.
        iterations: Steps in the modes that have them.
        solver: "iterate" where the rule's iteration converges, "given" for a black box that
            returns a solution found beforehand.
        errors: {(adjoint or "*", mode or "*"): (error class, words of its message, reason)}.
    """

    case: str
    rule: dict[str, Any]
    iterations: int
    unrolled: dict[str, Any] | None = None
    solver: str = "iterate"
    errors: dict[tuple[str, str], tuple[type[Exception], str, str]] = field(default_factory=dict)


NOT_SYMMETRIC = (fc.UnsupportedError, "normal: true", "no rule declares its measured Φ symmetric")
ONCE = (fc.UnsupportedError, "normal: true needs products", "a fold has no forward product")
EXPANDS = (fc.AdjointError, "did not converge", "ρ(Φ) >= 1")
LEAVES = (fc.SolveError, "KKT", "the iteration moves away from the solution")
DRIFTS = (fc.AdjointError, "fixed_point_unfold diverges", "ρ(Φ) >= 1: the series grows")


INNER_PGD = {"solver": ITERATE, "rule": "pgd", "adjoint": "direct"}
UNROLLED_PGD = {**INNER_PGD, "mode": "unroll", "iterations": 80}

ROWS: dict[str, Row] = {
    "pgd": Row("box", {"kind": "pgd"}, 80, errors={("cg", "fold"): NOT_SYMMETRIC}),
    "pgd, inner fold": Row(
        "box",
        {"kind": "pgd", "projection": "inner", "inner": INNER_PGD},
        40,
        # With P = I the inner iteration arrives in one step.
        unrolled={"kind": "pgd", "projection": "inner", "inner": {**UNROLLED_PGD, "iterations": 2}},
        errors={("cg", "fold"): NOT_SYMMETRIC, ("cg, normal", "fold"): ONCE},
    ),
    "pgd, long step": Row(
        "box",
        {"kind": "pgd", "step_size": 8.0},
        60,
        solver="given",
        errors={
            ("cg", "fold"): NOT_SYMMETRIC,
            ("lfpi", "fold"): EXPANDS,
            ("*", "fixed_point_unfold"): DRIFTS,
            ("*", "unfold"): LEAVES,
            ("*", "unroll"): LEAVES,
        },
    ),
    # Iterated, Newton with the active set of the last step is the primal-dual active set method.
    "newton": Row("box", {"kind": "newton"}, 6, solver="given"),
    "sqp": Row(
        "box",
        {"kind": "sqp", "inner": INNER_PGD},
        3,
        unrolled={"kind": "sqp", "inner": UNROLLED_PGD},
        solver="given",
    ),
    "admm": Row("box", {"kind": "admm"}, 150, errors={("cg", "fold"): NOT_SYMMETRIC}),
    "proximal": Row("lasso", {"kind": "proximal"}, 400, errors={("cg", "fold"): NOT_SYMMETRIC}),
    "fdpg": Row("denoising", {"kind": "fdpg"}, 400, errors={("cg", "fold"): NOT_SYMMETRIC}),
}

ADJOINTS: dict[str, dict[str, Any]] = {
    "lfpi": {"kind": "lfpi", "rtol": 1e-11, "max_iter": 20000},
    "lfpi, anderson": {"kind": "lfpi", "rtol": 1e-11, "max_iter": 20000, "anderson": 5},
    "gmres": {"kind": "gmres", "rtol": 1e-11},
    "cg": {"kind": "cg", "rtol": 1e-11},
    "cg, normal": {"kind": "cg", "rtol": 1e-11, "normal": True},
    "bicgstab": {"kind": "bicgstab", "rtol": 1e-11},
    "direct": {"kind": "direct", "rtol": 1e-11},
    "auto": {"kind": "auto", "rtol": 1e-11},
}


def cells() -> Iterator[Any]:
    for rule in ROWS:
        for adjoint in ADJOINTS:
            for mode in MODES:
                yield pytest.param(rule, adjoint, mode, id=f"{rule}-{adjoint}-{mode}")


def expected_error(row: Row, adjoint: str, mode: str) -> tuple[type[Exception], str, str] | None:
    keys = ((adjoint, mode), ("*", mode), (adjoint, "*"))
    return next((row.errors[key] for key in keys if key in row.errors), None)


@functools.cache
def reference(case: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return solutions, weights and gradients by central differences of tight solutions."""
    made = CASES[case]()
    layer = fc.build(
        {"problem": made.problem, "solver": ITERATE, "rule": made.reference_rule,
         "adjoint": "direct"}
    )  # fmt: skip
    weights = normal(B, N, seed=9)

    @torch.no_grad()
    def loss(values: dict[str, Tensor]) -> Tensor:
        return (layer(**values) * weights).sum()

    slopes = {}
    for name, value in made.values.items():
        slopes[name] = torch.empty_like(value)
        for i in range(value.numel()):
            unit = torch.zeros_like(value).flatten()
            unit[i] = STEP
            unit = unit.reshape(value.shape)
            ends = [loss({**made.values, name: value + sign * unit}) for sign in (1, -1)]
            slopes[name].view(-1)[i] = (ends[0] - ends[1]) / (2 * STEP)
    with torch.no_grad():
        return layer(**made.values), weights, slopes


def gradients(rule: str, adjoint: str, mode: str) -> tuple[Tensor, dict[str, Tensor]]:
    row = ROWS[rule]
    made = CASES[row.case]()
    solution, weights, _ = reference(row.case)
    steps = {} if mode == "fold" else {"iterations": row.iterations}
    unrolled = mode == "unroll" and row.unrolled is not None
    layer = fc.build(
        {"problem": made.problem, "adjoint": ADJOINTS[adjoint], "mode": mode,
         "rule": row.unrolled if unrolled else row.rule,
         "solver": ITERATE if row.solver == "iterate" else fc.solver(lambda program: solution),
         **steps}
    )  # fmt: skip
    leaves = {name: value.clone().requires_grad_() for name, value in made.values.items()}
    x = layer(**leaves)
    (x * weights).sum().backward()
    found = {}
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        found[name] = leaf.grad
    return x.detach(), found


def require(rule: str, adjoint: str) -> None:
    row = ROWS[rule]
    rules, adjoints = fc.registry.update_rules.names(), fc.registry.adjoint_solvers.names()
    if row.rule["kind"] not in rules or CASES[row.case]().reference_rule not in rules:
        pytest.skip(f"foldcore-{row.rule['kind']} is not installed")
    if ADJOINTS[adjoint]["kind"] not in adjoints:
        pytest.skip(f"foldcore-{ADJOINTS[adjoint]['kind']} is not installed")


@pytest.mark.parametrize(("rule", "adjoint", "mode"), cells())
def test_cell(rule: str, adjoint: str, mode: str) -> None:
    require(rule, adjoint)
    row = ROWS[rule]
    error = expected_error(row, adjoint, mode)
    if error is not None:
        kind, words, _ = error
        with pytest.raises(kind, match=words):
            gradients(rule, adjoint, mode)
        return
    solution, weights, slopes = reference(row.case)
    x, found = gradients(rule, adjoint, mode)
    assert (x - solution).abs().max() < 1e-9
    for name, expected in slopes.items():
        error_norm = float((found[name] - expected).norm())
        assert error_norm <= TOLERANCE * max(float(expected.norm()), float(weights.norm())), name


def test_the_matrix_holds_every_published_plugin() -> None:
    assert set(known_packages("foldcore.update_rules")) == {r.rule["kind"] for r in ROWS.values()}
    assert set(known_packages("foldcore.adjoint_solvers")) == {a["kind"] for a in ADJOINTS.values()}


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_neither_trivial_nor_degenerate(case: str) -> None:
    made = CASES[case]()
    if made.reference_rule not in fc.registry.update_rules.names():
        pytest.skip(f"foldcore-{made.reference_rule} is not installed")
    solution, _, slopes = reference(case)
    assert all(slope.norm() > 1e-2 for slope in slopes.values())
    if case == "box":
        active = (solution <= made.values["lower"] + 1e-9) | (
            solution >= made.values["upper"] - 1e-9
        )
        assert active.any(-1).all()
        assert (~active).any(-1).all()
