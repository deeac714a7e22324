"""Dependent rows, vertices and flat directions by every rule that asks the KKT engine, also inside one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc

for name in ("newton", "sqp", "admm", "pgd", "daqp", "osqp", "clarabel", "auto"):
    pytest.importorskip(f"foldcore_{name}", reason=f"dependence is shown with foldcore-{name}")

F64 = torch.float64
INNER = {"solver": "daqp", "rule": "newton"}
RULES: list[Any] = [
    pytest.param({"rule": "newton"}, id="newton"),
    pytest.param({"rule": "sqp"}, id="sqp"),
    pytest.param({"rule": {"kind": "sqp", "inner": INNER}}, id="sqp-newton"),
    pytest.param({"rule": "admm", "adjoint": "auto"}, id="admm"),
    pytest.param(
        {"rule": {"kind": "pgd", "projection": "inner", "inner": INNER}, "adjoint": "auto"},
        id="pgd-newton",
    ),
]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def sensitivity(P: Tensor, rows: Tensor) -> Tensor:
    """Return dx/dq = -Z(ZᵀPZ)⁻¹Zᵀ on the null space of the rows."""
    _, sizes, basis = torch.linalg.svd(rows)
    Z = basis[int((sizes > 1e-10 * sizes[0]).sum()) :].mT
    return -Z @ torch.linalg.solve(Z.mT @ P @ Z, Z.mT)


@pytest.mark.parametrize("config", RULES)
@pytest.mark.parametrize(("n", "factor"), [(3, 1.0), (7, -5.0)])
def test_an_equality_stated_twice(config: dict[str, Any], n: int, factor: float) -> None:
    root = draw(1, n, n)
    P = root @ root.mT + torch.eye(n, dtype=F64)
    row = draw(2, 1, n)
    A, b = torch.cat([row, factor * row]), torch.tensor([0.7, 0.7 * factor], dtype=F64)
    layer = fc.build(
        {"problem": fc.QuadraticProgram(P=P, q=fc.Param(n), A=A, b=b), "solver": "daqp", **config}
    )
    q = draw(3, 4, n).requires_grad_()
    weights = draw(4, n)
    x = layer(q=q)
    (x @ weights).sum().backward()
    slope = sensitivity(P, A)
    particular = row[0] * (0.7 / (row @ row.mT).item())
    expected = particular + (q.detach() + P @ particular) @ slope.mT
    assert (x - expected).abs().max() <= 1e-6
    assert q.grad is not None
    assert (q.grad - weights @ slope).abs().max() <= 1e-7 * weights.norm()


@pytest.mark.filterwarnings("ignore::foldcore.DegenerateWarning")
@pytest.mark.parametrize("solver", ["daqp", "osqp", "clarabel"])
@pytest.mark.parametrize("config", RULES)
@pytest.mark.parametrize("form", ["twice", "bound", "sum"])
def test_active_rows_that_depend(config: dict[str, Any], solver: str, form: str) -> None:
    """x₁ <= -1 and x₂ <= 0.2 hold at the solution; another row or bound says so again."""
    G = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=F64)
    h = torch.tensor([-1.0, 0.2], dtype=F64)
    upper = None
    if form == "twice":
        G, h = torch.cat([G, 3 * G[:1]]), torch.cat([h, 3 * h[:1]])
    elif form == "sum":
        G, h = torch.cat([G, G.sum(0, keepdim=True)]), torch.cat([h, h.sum(0, keepdim=True)])
    else:
        upper = torch.tensor([-1.0, 9.0, 9.0], dtype=F64)
    problem = fc.QuadraticProgram(
        P=2 * torch.eye(3, dtype=F64), q=fc.Param(3), G=G, h=h, upper=upper
    )
    layer = fc.build({"problem": problem, "solver": solver, **config})
    q = torch.tensor([[-4.0, -3.0, 1.0], [-9.0, -2.0, 0.4]], dtype=F64, requires_grad=True)
    x = layer(q=q)
    (x * torch.tensor([1.0, 2.0, 3.0], dtype=F64)).sum().backward()
    expected = torch.stack([q.new_tensor([-1.0, 0.2, -v / 2]) for v in (1.0, 0.4)])
    assert (x - expected).abs().max() <= 1e-5
    assert q.grad is not None
    assert (q.grad - q.new_tensor([0.0, 0.0, -1.5])).abs().max() <= 1e-6


@pytest.mark.parametrize("solver", ["daqp", "osqp", "clarabel"])
def test_a_vertex_with_more_active_rows_than_variables(solver: str) -> None:
    n = 6
    problem = fc.QuadraticProgram(
        q=fc.Param(n), A=torch.ones(1, n, dtype=F64), b=torch.ones(1, dtype=F64), lower=0.0,
        upper=1.0,
    )  # fmt: skip
    layer = fc.build({"problem": problem, "solver": solver, "rule": "newton"})
    q = torch.tensor([0.5, -2.0, 0.3, 0.2, 0.1, 0.4], dtype=F64, requires_grad=True)
    x = layer(q=q)
    x[1].backward()
    assert (x - torch.eye(n, dtype=F64)[1]).abs().max() <= 1e-6
    assert q.grad is not None
    assert q.grad.abs().max() <= 1e-12


def test_a_transport_plan_with_both_marginals() -> None:
    """The last marginal follows from the others; Sinkhorn's plan and central differences of it."""
    k, eps = 4, 0.3
    r = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=F64)

    def sinkhorn(C: Tensor) -> Tensor:
        kernel, v = (-C / eps).exp(), torch.ones(k, dtype=F64)
        for _ in range(2000):
            u = r / (kernel @ v)
            v = (1 / k) / (kernel.mT @ u)
        return u[:, None] * kernel * v[None]

    def known(program: fc.SmoothProgram) -> Tensor:
        return torch.stack([sinkhorn(c).flatten() for c in program.params["C"].reshape(-1, k, k)])

    problem = fc.Problem(
        k * k,
        lambda x, C: (C.reshape(-1) * x).sum() + eps * (x * x.log()).sum(),
        {"C": fc.Param(k, k)},
        equality=lambda x: torch.cat([x.reshape(k, k).sum(1) - r, x.reshape(k, k).sum(0) - 1 / k]),
        lower=0.0,
        convex=True,
    )
    layer = fc.build({"problem": problem, "solver": fc.solver(known), "rule": "newton"})
    C = draw(5, k, k).abs().requires_grad_()
    weights = draw(6, k * k)
    (layer(C=C) * weights).sum().backward()
    assert C.grad is not None
    for i, j in ((0, 0), (1, 3), (3, 2)):
        step = torch.zeros(k, k, dtype=F64)
        step[i, j] = 1e-5
        up, down = (sinkhorn(C.detach() + s * step).flatten() for s in (1, -1))
        assert abs(float(C.grad[i, j] - (up - down) @ weights / 2e-5)) <= 1e-7


@pytest.mark.parametrize("margin", [1e-5, 3e-7, 2e-8])
@pytest.mark.parametrize("solver", ["clarabel", "osqp"])
def test_a_margin_below_the_answers_accuracy_is_decided_by_the_step(
    solver: str, margin: float
) -> None:
    """Σx <= h is active with multiplier ``margin``: dx/dh = 1/n, whatever slack the answer has."""
    n = 5
    problem = fc.QuadraticProgram(
        P=torch.eye(n, dtype=F64), q=fc.Param(n), G=torch.ones(1, n, dtype=F64), h=fc.Param(1)
    )
    layer = fc.build({"problem": problem, "solver": solver, "rule": "newton"})
    q = torch.full((n,), -0.4 - margin, dtype=F64)
    h = torch.tensor([2.0], dtype=F64, requires_grad=True)
    layer(q=q, h=h).sum().backward()
    assert h.grad is not None
    assert abs(float(h.grad) - 1) <= 1e-9


def test_a_saddle_that_a_solver_returns_is_reported() -> None:
    saddle = fc.Problem(2, lambda x, c: x[0] * x[1] + c * 0 * x[0], {"c": fc.Param()})
    peak = fc.Problem(1, lambda x, c: torch.cos(3 * x[0]) + 0 * c, {"c": fc.Param()})
    for problem, n in ((saddle, 2), (peak, 1)):

        def zeros(program: fc.SmoothProgram, n: int = n) -> Tensor:
            return torch.zeros(program.batch, n, dtype=F64)

        layer = fc.build({"problem": problem, "solver": fc.solver(zeros), "rule": "newton"})
        with pytest.warns(fc.CertificateWarning, match="saddle or a maximum"):
            layer(c=torch.tensor(1.0, dtype=F64, requires_grad=True))
