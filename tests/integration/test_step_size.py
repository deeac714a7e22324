"""The step-size tool against the default step, on the instances of docs/benchmarks.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

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
