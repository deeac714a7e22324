"""The table in docs/solvers.md is what the installed solvers do."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import foldcore as fc

ROOT = Path(__file__).parents[2]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "benchmark_solvers", ROOT / "benchmarks" / "solvers.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_solver_reaches_small_residuals_and_tells_failures_apart(
    benchmark: ModuleType,
) -> None:
    page = [
        cells(line)
        for line in (ROOT / "docs" / "solvers.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    heading, *computed = (cells(line) for line in benchmark.table().splitlines())
    assert page[0] == heading, "run `python benchmarks/solvers.py` anew"
    printed = {row[0]: row for row in page[1:]}
    for row in computed[1:]:
        for head, value, old in zip(heading, row, printed[row[0]], strict=True):
            if re.fullmatch(r"\de-\d\d\*?", value) and re.fullmatch(r"\de-\d\d\*?", old):
                assert float(value.rstrip("*")) < 1e-4, (row[0], head)
                assert value.endswith("*") == old.endswith("*"), (row[0], head)
            else:
                assert value == old, (row[0], head, "run `python benchmarks/solvers.py` anew")
        assert "WRONG" not in row


def test_wrong_signs_would_be_named(benchmark: ModuleType) -> None:
    class Negated(fc.Solver):
        api_version = 1
        config_class = fc.PluginConfig
        capabilities = fc.Capabilities(frozenset({fc.ProblemClass.QP}), duals=True)

        def __init__(self, config: fc.PluginConfig) -> None:
            self.config = config

        def open(self, structure: fc.ProgramStructure) -> fc.Session:
            return Answer()

    class Answer(fc.Session):
        sign = 1.0

        def solve(self, program: fc.SmoothProgram, **_: object) -> fc.Solution:
            x = torch.full((1, 4), 0.25, dtype=torch.float64)
            zero, multiplier = torch.zeros_like(x), torch.tensor([[0.75]], dtype=torch.float64)
            lower, upper = zero.clone(), zero.clone()
            lower[0, 2], upper[0, 3] = 1.25, 0.75
            duals = fc.Duals(self.sign * multiplier, multiplier, lower, upper)
            return fc.Solution(x, (fc.Status.OPTIMAL,), duals)

    solver = Negated(fc.PluginConfig())
    assert benchmark.signs(solver) == "foldcore's"
    Answer.sign = -1.0
    assert benchmark.signs(solver) == "WRONG"
