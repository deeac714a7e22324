"""Folded gradients of strictly convex QPs against the implicit KKT derivative, field by field."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp
from foldcore.testing.reference import QPReference

for name in ("newton", "pgd", "osqp", "lfpi", "gmres", "direct"):
    pytest.importorskip(f"foldcore_{name}", reason=f"the matrix of gradients needs foldcore-{name}")

N, INSTANCES = 30, 20
Values = dict[str, Tensor]
ADJOINTS: dict[str, dict[str, Any]] = {
    "lfpi": {"kind": "lfpi", "max_iter": 20000, "rtol": 1e-10},
    "gmres": {"kind": "gmres", "rtol": 1e-10},
    "direct": {"kind": "direct"},
}
FOLDED = {"solver": "osqp", "rule": "newton", "adjoint": "direct"}


def sets() -> dict[str, Values]:
    """Return batches of 20 random QPs: the general one, and sets with closed-form projections."""
    general = random_qp(0, N, n_equality=4, n_inequality=12, batch=INSTANCES)
    box = {k: general[k] for k in ("P", "q", "lower", "upper")}
    ones = torch.ones(INSTANCES, N, dtype=torch.float64)
    total = torch.linspace(2.0, 5.0, INSTANCES, dtype=torch.float64)[:, None]
    plane = {"A": ones[:, None], "b": total}
    affine = random_qp(1, N, n_equality=6, bounds=False, batch=INSTANCES)
    half = random_qp(2, N, n_inequality=1, bounds=False, batch=INSTANCES)
    return {
        "general": general,
        "box": box,
        "simplex": {"P": box["P"], "q": box["q"] / 4, **plane, "lower": 0 * ones},
        "capped simplex": {
            "P": box["P"], "q": box["q"] / 4, **plane, "lower": 0 * ones, "upper": 0.6 * ones,
        },
        "affine": affine,
        "half space": half,
    }  # fmt: skip


SETS = sets()
CONSTANTS: dict[str, tuple[str, ...]] = {"simplex": ("A", "lower"), "capped simplex": ("A",)}
"""Fields that a closed form needs as constants: a hyperplane of equal weights, bounds of 0."""


def cotangent() -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(INSTANCES, N, generator=generator, dtype=torch.float64)


def references(data: Values, x: Tensor) -> list[QPReference]:
    return [
        QPReference.from_guess({k: v[i].numpy() for k, v in data.items()}, x[i].numpy())
        for i in range(INSTANCES)
    ]


def compare(data: Values, config: dict[str, Any], rtol: float, *constants: str) -> None:
    """Compare every field's gradient, in the norm of each sample, with the implicit derivative."""
    one = {k: v[0] for k, v in data.items()}
    layer = fc.build(
        {"problem": declare(one, set(data) - set(constants)), "solver": "osqp", **config}
    )
    leaves = {k: v.clone().requires_grad_() for k, v in data.items() if k not in constants}
    x = layer(**leaves)
    g = cotangent()
    (x * g).sum().backward()
    exact = references(data, x.detach())
    strict = [i for i, r in enumerate(exact) if r.strictness > 1e-5]
    assert len(strict) >= INSTANCES - 2, "instances should be strictly complementary"
    for i in strict:
        expected = exact[i].gradients(g[i].numpy())
        for field, leaf in leaves.items():
            assert leaf.grad is not None, field
            reference = torch.from_numpy(expected[field])
            error = (leaf.grad[i] - reference).norm()
            assert error <= rtol * max(reference.norm(), g[i].norm()), (field, i, float(error))


def test_instances_are_what_the_claim_is_about() -> None:
    """Several active constraints of every kind, and 5 or more free directions in at least 10."""
    data = SETS["general"]
    layer = fc.build({"problem": declare({k: v[0] for k, v in data.items()}, set(data)), **FOLDED})
    with torch.no_grad():
        solution = layer.solve(**data)
    exact = references(data, solution.primal)
    assert sum(r.free_directions >= 5 for r in exact) >= 10
    assert solution.duals is not None
    assert (solution.duals.inequality > 1e-5).sum(-1).min() >= 1
    assert (solution.duals.lower > 1e-5).sum(-1).min() >= 2
    assert (solution.duals.upper > 1e-5).sum(-1).min() >= 2
    assert min(r.strictness for r in exact) > 1e-6


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_newton(adjoint: str) -> None:
    compare(SETS["general"], {"rule": "newton", "adjoint": ADJOINTS[adjoint]}, 1e-6)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", [name for name in SETS if name != "general"])
def test_pgd_with_closed_form_projection(name: str, adjoint: str) -> None:
    rule = {"kind": "pgd", "projection": "closed_form"}
    config = {"rule": rule, "adjoint": ADJOINTS[adjoint]}
    compare(SETS[name], config, 1e-6, *CONSTANTS.get(name, ()))


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_pgd_with_a_folded_projection(adjoint: str) -> None:
    rule = {"kind": "pgd", "projection": "inner", "inner": FOLDED}
    compare(SETS["general"], {"rule": rule, "adjoint": ADJOINTS[adjoint]}, 1e-6)


@pytest.mark.parametrize("adjoint", ["gmres", "direct"])
def test_pgd_over_admm(adjoint: str) -> None:
    """f-PGDb of the paper: fixed-point folding of PGD and of the ADMM that projects."""
    pytest.importorskip("foldcore_admm", reason="the inner rule is foldcore-admm")
    inner = {"solver": "osqp", "rule": "admm", "adjoint": "direct"}
    rule = {"kind": "pgd", "projection": "inner", "inner": inner}
    compare(SETS["general"], {"rule": rule, "adjoint": ADJOINTS[adjoint]}, 1e-6)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_pgd_with_a_projection_by_a_differentiable_solver(adjoint: str) -> None:
    pytest.importorskip("foldcore_qpth", reason="the differentiable inner solver is foldcore-qpth")
    rule = {"kind": "pgd", "projection": "inner", "inner": {"solver": "qpth"}}
    with warnings.catch_warnings():
        # its tolerance is what it is; the bound on the gradient below is the claim
        warnings.simplefilter("ignore", fc.CertificateWarning)
        config = {"rule": rule, "adjoint": {**ADJOINTS[adjoint], "rtol": 1e-7}}
        compare(SETS["general"], config, 1e-4)


def test_qpth_alone() -> None:
    pytest.importorskip("foldcore_qpth", reason="the differentiable solver is foldcore-qpth")
    compare(SETS["general"], {"solver": "qpth"}, 1e-4)


def test_a_wrong_gradient_would_be_seen() -> None:
    """One step of backpropagation, as if Φ were 0, is far outside the tolerance."""
    config = {"rule": "pgd", "mode": "fixed_point_unfold", "iterations": 1}
    with pytest.raises(AssertionError, match="P"):
        compare(SETS["box"], config, 1e-2)


GRADCHECKED: dict[str, dict[str, Any]] = {
    "newton": {"rule": "newton", "adjoint": "direct"},
    "pgd": {"rule": {"kind": "pgd", "inner": FOLDED}, "adjoint": "direct"},
    "pgd, gmres": {"rule": {"kind": "pgd", "inner": FOLDED}, "adjoint": ADJOINTS["gmres"]},
}


@pytest.mark.parametrize("name", GRADCHECKED)
@pytest.mark.parametrize("batched", [True, False])
def test_gradcheck(name: str, batched: bool) -> None:
    data = random_qp(5, 4, n_equality=1, n_inequality=2, batch=2 if batched else None)
    one = {k: v[0] for k, v in data.items()} if batched else data
    layer = fc.build(
        {"problem": declare(one, set(data), psd=False), "solver": "osqp",
         "fixed_point": {"polish": 1}, **GRADCHECKED[name]}
    )  # fmt: skip
    names = sorted(data)

    def primal(*values: Tensor) -> Tensor:
        return layer(**dict(zip(names, values, strict=True)))

    leaves = tuple(data[k].clone().requires_grad_() for k in names)
    assert torch.autograd.gradcheck(primal, leaves, eps=1e-6, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["newton", "pgd"])
def test_gradcheck_of_duals(name: str) -> None:
    """Duals that z carries (newton) and duals recovered from x (pgd) have gradients."""
    data = random_qp(5, 4, n_equality=1, n_inequality=2, batch=2)
    layer = fc.build(
        {"problem": declare({k: v[0] for k, v in data.items()}, set(data), psd=False),
         "solver": "osqp", "fixed_point": {"polish": 1}, **GRADCHECKED[name]}
    )  # fmt: skip
    names = sorted(data)

    def duals(*values: Tensor) -> Tensor:
        found = layer.solve(**dict(zip(names, values, strict=True))).duals
        assert found is not None
        return torch.cat([found.equality, found.inequality, found.lower, found.upper], -1)

    leaves = tuple(data[k].clone().requires_grad_() for k in names)
    assert duals(*leaves).abs().max() > 0.1
    assert torch.autograd.gradcheck(duals, leaves, eps=1e-6, atol=1e-6, rtol=1e-6)
