"""Nonconvex QPs: local optima from a black box, folded by PGD, against the implicit KKT derivative."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp
from foldcore.testing.reference import QPReference

for name in ("pgd", "newton", "osqp", "gmres", "direct"):
    pytest.importorskip(f"foldcore_{name}", reason=f"folds with foldcore-{name}")

N, INSTANCES = 14, 24


def instances() -> dict[str, Tensor]:
    """Return QPs on boxes with one equality, their Hessians shifted to be indefinite."""
    data = random_qp(11, N, n_equality=1, batch=INSTANCES)
    data["P"] = 4 * data["P"] - 0.9 * torch.eye(N, dtype=torch.float64)
    data["q"] = data["q"] / 2
    return data


DATA = instances()


@functools.cache
def local_optima() -> Tensor:
    """Projected gradient from the interior point, then the exact optimum of its active set."""
    plane = fc.BoxHyperplane(DATA["A"][:, 0], DATA["b"][:, 0], DATA["lower"], DATA["upper"])
    step = 0.9 / torch.linalg.eigvalsh(DATA["P"])[:, -1:].abs()
    x = torch.full((INSTANCES, N), 0.5, dtype=torch.float64)
    for _ in range(20_000):
        gradient = (DATA["P"] @ x.unsqueeze(-1)).squeeze(-1) + DATA["q"]
        x = plane.project(x - step * gradient)
    exact = [
        QPReference.from_guess({k: v[i].numpy() for k, v in DATA.items()}, x[i].numpy()).x
        for i in range(INSTANCES)
    ]
    return torch.from_numpy(np.stack(exact))


RULES: dict[str, Any] = {
    "closed form": {"kind": "pgd"},
    "inner fold": {
        "kind": "pgd",
        "projection": "inner",
        "inner": {"solver": "osqp", "rule": "newton", "adjoint": "direct"},
    },
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("adjoint", ["gmres", "direct"])
def test_gradients_at_local_optima_of_nonconvex_problems(rule: str, adjoint: str) -> None:
    assert (torch.linalg.eigvalsh(DATA["P"])[:, 0] < -0.1).all()
    layer = fc.build(
        {"problem": declare({k: v[0] for k, v in DATA.items()}, set(DATA), psd=False),
         "solver": lambda program: local_optima(), "rule": RULES[rule],
         "adjoint": {"kind": adjoint, "rtol": 1e-11}}
    )  # fmt: skip
    leaves = {name: value.clone().requires_grad_() for name, value in DATA.items()}
    solution = layer.solve(**leaves)
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(INSTANCES, N, generator=generator, dtype=torch.float64)
    (solution.primal * g).sum().backward()
    free = 0
    for i in range(INSTANCES):
        data = {k: v[i].numpy() for k, v in DATA.items()}
        reference = QPReference.from_guess(data, solution.primal[i].detach().numpy())
        assert reference.strictness > 1e-6
        free += reference.free_directions >= 5
        for name, value in reference.gradients(g[i].numpy()).items():
            given = leaves[name].grad
            assert given is not None
            expected = torch.from_numpy(value)
            bound = 1e-6 * max(float(expected.norm()), float(g[i].norm()))
            assert (given[i] - expected).norm() <= bound, (name, i)
    assert free >= 10
