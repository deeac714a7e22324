"""The step-size tool against the default step, on the instances of docs/benchmarks.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import foldcore as fc

for name in ("pgd", "lfpi", "osqp"):
    pytest.importorskip(f"foldcore_{name}", reason=f"the benchmark uses foldcore-{name}")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step_size.py"


def test_auto_needs_fewer_lfpi_products_on_at_least_nine_of_ten_instances() -> None:
    spec = importlib.util.spec_from_file_location("benchmark_step_size", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    rows = [benchmark.measure(seed) for seed in range(10)]
    assert sum(row.best_products < row.default_products for row in rows) >= 9
    page = (SCRIPT.parents[1] / "docs" / "benchmarks.md").read_text()
    assert all(f"| {row.seed} | {row.default_radius:.5f} |" in page for row in rows[:3])


@pytest.mark.parametrize("rule", ["proximal", "fdpg"])
def test_auto_is_the_best_step_of_the_proximal_rules_too(rule: str) -> None:
    for name in (rule, "gmres"):
        pytest.importorskip(f"foldcore_{name}", reason=f"uses foldcore-{name}")
    n = 8
    generator = torch.Generator().manual_seed(2)
    P = torch.diag(torch.logspace(0, 2, n, dtype=torch.float64))
    operator = torch.eye(n, dtype=torch.float64)
    if rule == "fdpg":
        P = torch.eye(n, dtype=torch.float64)
        operator = torch.randn(5, n, generator=generator, dtype=torch.float64)
    problem = fc.Problem(
        n,
        lambda x, q: x @ P @ x / 2 + q @ x,
        {"q": fc.Param(n)},
        regularizers=[fc.L1(0.3) if rule == "proximal" else fc.L1(0.3, operator)],
        convex=True,
    )
    q = torch.randn(3, n, generator=generator, dtype=torch.float64) * 3
    found, gradients = [], []
    for step in (None, "auto"):
        layer = fc.build(
            {"problem": problem, "solver": "osqp", "rule": {"kind": rule, "step_size": step},
             "adjoint": {"kind": "gmres", "rtol": 1e-12}}
        )  # fmt: skip
        found.append(fc.diagnose(layer, q=q))
        leaf = q.clone().requires_grad_()
        layer(q=leaf).square().sum().backward()
        gradients.append(leaf.grad)
    plain, auto = found
    assert plain.best_radius is not None
    assert torch.allclose(auto.spectral_radius, plain.best_radius, rtol=1e-6, atol=1e-9)
    moving = plain.spectral_radius > 0  # 0 where every dual variable is at its bound
    assert moving.any()
    assert (auto.spectral_radius[moving] < plain.spectral_radius[moving]).all()
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-8, atol=1e-9)
