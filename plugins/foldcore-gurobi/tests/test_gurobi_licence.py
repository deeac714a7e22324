"""Without a licence the plugin says why and nothing else breaks; runs where there is none, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gurobipy as gp
import pytest
from foldcore_gurobi import licence

EXPIRED = "TYPE=NODE\nVERSION=13\nHOSTID=0\nEXPIRATION=2020-01-01\nKEY=ABCD\nCKEY=ABCD\n"

PROGRAM = """
import torch, foldcore as fc
from foldcore_gurobi import GurobiConfig, GurobiSolver
print(GurobiSolver.unusable_reason())
GurobiConfig(parameters={"Method": 1})
ball = fc.QuadraticProgram(q=fc.Param(2), quadratic_P=torch.eye(2)[None],
    quadratic_q=torch.zeros(1, 2), quadratic_r=torch.ones(1))
try:
    fc.build({"problem": ball, "solver": "gurobi", "rule": "newton", "adjoint": "direct"})
except fc.PluginUnusableError as error:
    print("named:", error)
"""


@pytest.mark.parametrize(
    ("content", "reason"), [(EXPIRED, "has expired"), (None, "no valid Gurobi licence")]
)
def test_expired_and_missing_licences_are_told_apart(tmp_path: Path, content, reason):
    file = tmp_path / "gurobi.lic"
    if content is not None:
        file.write_text(content)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "GRB_LICENSE_FILE": str(file)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, second = result.stdout.strip().splitlines()
    assert reason in first, result.stderr
    assert second.startswith("named:")
    assert reason in second


@pytest.mark.parametrize(
    ("errno", "text", "reason"),
    [
        (gp.GRB.Error.NO_LICENSE, "License expired 2027-11-29", "has expired"),
        (gp.GRB.Error.NO_LICENSE, "Version number is 14.0, license is for version 13.0", "version"),
        (gp.GRB.Error.NO_LICENSE, "No Gurobi license found", "no valid"),
        (gp.GRB.Error.NETWORK, "Could not resolve host", "cannot be reached"),
    ],
)
def test_each_state_has_its_words(errno, text, reason, monkeypatch):
    def refuse(self):
        raise gp.GurobiError(errno, text)

    monkeypatch.setattr(licence, "_local", type("Fresh", (), {})())
    monkeypatch.setattr(gp.Env, "start", refuse)
    found = licence.unusable_reason()
    assert found is not None
    assert reason in found
    assert text in found


def test_the_environment_is_started_once_per_thread():
    if licence.unusable_reason() is not None:
        pytest.skip(f"gurobi: {licence.unusable_reason()}")
    assert licence.environment() is licence.environment()
