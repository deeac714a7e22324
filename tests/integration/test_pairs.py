"""Two plugins at a time: the right gradient, or the documented refusal.

The combinations are those of what is installed; their names are those of tox's environments, so
that ``tox -e pair-newton-gmres`` runs ``test_pair[pair-newton-gmres]`` with these two plugins and
the core alone. The references are closed forms on the active set, in numpy.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from numpy.typing import NDArray
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp
from foldcore.testing.reference import QPReference

Array = NDArray[np.float64]

N, B = 6, 2
TOLERANCE = 1e-6
ITERATE = {"kind": "iterate", "rtol": 1e-13, "atol": 1e-13, "max_iter": 100000}
SMOOTH_RULES_ON_ANY_QP = ("newton", "admm")
NONSMOOTH_RULES = ("proximal", "fdpg")
ADJOINTS = ("direct", "gmres", "auto", "bicgstab", "lfpi")
"""Those that solve every rule's equation, in the order of preference beside a solver."""


@dataclass(frozen=True)
class Reference:
    """A batch of problems with their solutions and the gradients of cotangent·x*.

    Attributes:
        problem: The declaration.
        values: Its parameters, (B, …) each.
        solution: x*, (B, n).
        gradients: Of each of ``values``, by formulas that no plugin uses.
    """

    problem: fc.ParametricProblem
    values: dict[str, Tensor]
    solution: Tensor
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """The two plugins under test, ``solver`` None where a solution is handed over instead."""

    solver: str | None
    rule: str
    adjoint: str

    @property
    def name(self) -> str:
        first, second = (
            (self.rule, self.adjoint) if self.solver is None else (self.solver, self.rule)
        )
        return f"pair-{first}-{second}"


def cotangent() -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(B, N, generator=generator, dtype=torch.float64)


def qp_guess(data: dict[str, Array]) -> Array:
    """Return the solution of one QP, accurate enough to tell its active set."""
    constraints = []
    if "A" in data:
        constraints.append({"type": "eq", "fun": lambda x: data["A"] @ x - data["b"]})
        constraints.append({"type": "ineq", "fun": lambda x: data["h"] - data["G"] @ x})
    found = scipy.optimize.minimize(
        lambda x: x @ data["P"] @ x / 2 + data["q"] @ x,
        np.full(N, 0.5),
        jac=lambda x: data["P"] @ x + data["q"],
        bounds=list(zip(data["lower"], data["upper"], strict=True)),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return np.asarray(found.x)


def qp(*, n_equality: int, n_inequality: int) -> Reference:
    values = random_qp(0, N, n_equality, n_inequality, batch=B)
    problem = declare(values, set(values))
    samples = [{name: value[i].numpy() for name, value in values.items()} for i in range(B)]
    exact = [QPReference.from_guess(data, qp_guess(data), 1e-5) for data in samples]
    assert min(reference.strictness for reference in exact) > 1e-2, "degenerate"
    assert min(reference.free_directions for reference in exact) >= 1, "nothing is free"
    slopes = [r.gradients(g.numpy()) for r, g in zip(exact, cotangent(), strict=True)]
    return Reference(
        problem,
        values,
        torch.from_numpy(np.stack([reference.x for reference in exact])),
        {name: torch.from_numpy(np.stack([s[name] for s in slopes])) for name in values},
    )


def l1(*, with_operator: bool) -> Reference:
    """½xᵀPx - cᵀx + w‖Dx‖₁ with D = I or invertible: on the support of y = Dx it is linear."""
    generator = torch.Generator().manual_seed(5)
    factor = torch.randn(N, N, generator=generator, dtype=torch.float64) / 4
    P = factor @ factor.mT + torch.eye(N, dtype=torch.float64) / 2
    D = torch.eye(N, dtype=torch.float64)
    if with_operator:
        D = D + torch.randn(N, N, generator=generator, dtype=torch.float64) / 5
    values = {
        "c": 0.6 * torch.randn(B, N, generator=generator, dtype=torch.float64),
        "weight": torch.tensor([0.25, 0.35], dtype=torch.float64),
    }
    term = fc.L1(fc.Param(), D) if with_operator else fc.L1(fc.Param())
    problem = fc.Problem(
        N, lambda x, c: x @ P @ x / 2 - c @ x, {"c": fc.Param(N)}, regularizers=[term]
    )
    inverse = np.linalg.inv(D.numpy())
    solved = [
        on_support(P.numpy(), inverse, c.numpy(), float(w), g.numpy())
        for c, w, g in zip(values["c"], values["weight"], cotangent(), strict=True)
    ]
    x, dc, dw = (torch.from_numpy(np.stack(column)) for column in zip(*solved, strict=True))
    return Reference(problem, values, x, {"c": dc, "weight": dw})


def on_support(
    P: Array, inverse: Array, c: Array, weight: float, g: Array
) -> tuple[Array, Array, Array]:
    """Return x*, and the gradients of gᵀx* to c and to the weight, by trying every sign pattern."""
    hessian, linear = inverse.T @ P @ inverse, inverse.T @ c
    for pattern in itertools.product((-1.0, 0.0, 1.0), repeat=N):
        signs = np.array(pattern)
        on = signs != 0
        if not 2 <= on.sum() < N:
            continue
        y = np.zeros(N)
        y[on] = np.linalg.solve(hessian[np.ix_(on, on)], linear[on] - weight * signs[on])
        slack = weight - np.abs(linear - hessian @ y)[~on]
        if (y[on] * signs[on] > 1e-2).all() and (slack > 1e-2).all():
            adjoint = np.zeros(N)
            adjoint[on] = np.linalg.solve(hessian[np.ix_(on, on)], (inverse.T @ g)[on])
            return inverse @ y, inverse @ adjoint, np.asarray(-signs @ adjoint)
    raise AssertionError("the instance is degenerate, or has no zero, or too few others")


@functools.cache
def reference(rule: str) -> Reference:
    if rule in NONSMOOTH_RULES:
        return l1(with_operator=rule == "fdpg")
    if rule in SMOOTH_RULES_ON_ANY_QP:
        return qp(n_equality=1, n_inequality=2)
    # PGD alone needs a set with a closed-form projection; SQP here has PGD as its inner rule.
    return qp(n_equality=0, n_inequality=0)


def pairs() -> list[Pair]:
    solvers = fc.registry.solvers.names()
    rules = [name for name in fc.registry.update_rules.names() if name != "example"]
    adjoints = [name for name in fc.registry.adjoint_solvers.names() if name != "example"]
    beside_solvers = [name for name in ADJOINTS if name in adjoints][:1]
    return [
        Pair(None if solver == "" else solver, rule, adjoint)
        for solver, usable in [("", adjoints), *((s, beside_solvers) for s in solvers)]
        for rule in rules
        for adjoint in usable
        if solver != "example" and (rule != "sqp" or "pgd" in rules)
    ]


def expected_refusal(pair: Pair) -> tuple[type[fc.FoldcoreError], str] | None:
    if pair.solver == "fdpg" and pair.rule not in NONSMOOTH_RULES:
        return fc.ConfigError, "no nonsmooth term"
    if pair.solver == "qpth" and pair.rule in NONSMOOTH_RULES:
        return fc.ConfigError, "P is constant and singular"  # the lowering has variables t >= |x|
    if pair.solver == "iterate" and pair.rule in ("newton", "sqp"):
        return fc.ConfigError, "does not find solutions"  # locally convergent only
    if pair.adjoint == "cg" and pair.rule not in ("newton", "sqp"):
        return fc.UnsupportedError, "adjoint.normal: true"  # of the others Φ is not symmetric
    return None


def check(pair: Pair, adjoint: dict[str, Any]) -> None:
    """Build the layer and compare x* and every gradient, sample by sample, in their norms."""
    known = reference(pair.rule)
    rule: dict[str, Any] = {"kind": pair.rule}
    if pair.rule == "sqp":
        inner = {**adjoint, "normal": True} if pair.adjoint == "cg" else adjoint
        rule["inner"] = {"solver": ITERATE, "rule": "pgd", "adjoint": inner}
    solver: object = fc.solver(lambda program: known.solution)
    if pair.solver is not None:
        solver = ITERATE if pair.solver == "iterate" else pair.solver
    layer = fc.build({"problem": known.problem, "solver": solver, "rule": rule, "adjoint": adjoint})
    leaves = {name: value.clone().requires_grad_() for name, value in known.values.items()}
    x = layer(**leaves)
    (x * cotangent()).sum().backward()
    assert (x - known.solution).norm(dim=-1).max() <= TOLERANCE * known.solution.norm()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        error = (leaf.grad - known.gradients[name]).reshape(B, -1).norm(dim=-1)
        scale = known.gradients[name].reshape(B, -1).norm(dim=-1)
        assert (error <= TOLERANCE * torch.maximum(scale, cotangent().norm(dim=-1))).all(), name


PAIRS = pairs()
if not PAIRS:
    pytest.skip("pairs need a rule and an adjoint solver", allow_module_level=True)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_pair(pair: Pair) -> None:
    adjoint: dict[str, Any] = {"kind": pair.adjoint, "rtol": 1e-11}
    if pair.adjoint == "lfpi":
        adjoint["max_iter"] = 20000
    refusal = expected_refusal(pair)
    if refusal is None:
        check(pair, adjoint)
        return
    error, words = refusal
    with pytest.raises(error, match=words):
        check(pair, adjoint)
    if pair.adjoint == "cg":
        check(pair, {**adjoint, "normal": True})


def test_names_are_unique() -> None:
    names = [pair.name for pair in PAIRS]
    assert sorted(set(names)) == sorted(names)


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = next(pair for pair in PAIRS if expected_refusal(pair) is None)
    known = reference(pair.rule)
    wrong = {name: value * (1 + 1e-5) for name, value in known.gradients.items()}
    planted = Reference(known.problem, known.values, known.solution, wrong)
    monkeypatch.setitem(globals(), "reference", lambda rule: planted)
    with pytest.raises(AssertionError):
        check(pair, {"kind": pair.adjoint, "rtol": 1e-11})
