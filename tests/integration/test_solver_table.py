"""The table in docs/solvers.md is what the installed solvers do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_every_solver_reaches_small_residuals_and_tells_failures_apart() -> None:
    path = ROOT / "benchmarks" / "solvers.py"
    spec = importlib.util.spec_from_file_location("benchmark_solvers", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    printed = {
        cells(line)[0]: cells(line)
        for line in (ROOT / "docs" / "solvers.md").read_text().splitlines()
        if line.startswith("| `")
    }
    computed = [cells(line) for line in benchmark.table().splitlines()[2:]]
    for row in computed:
        for value in row[1:6]:
            assert value == "–" or float(value.rstrip("*")) < 1e-4, row
        assert row[6:] == printed[row[0]][6:], "run `python benchmarks/solvers.py` anew"
