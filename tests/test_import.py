"""What ``import foldcore`` may load, seen in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each costs a noticeable part of a second, or belongs to one plugin; all are imported where used.
FORBIDDEN = {"scipy", "joblib", "yaml", "sklearn", "osqp", "qpth", "pytest", "typer", "rich"}
PROBE = """
import json, sys, time
started = time.perf_counter()
import torch
torch_seconds = time.perf_counter() - started
by_torch = set(sys.modules)
started = time.perf_counter()
{statement}
own_seconds = time.perf_counter() - started
modules = sorted(set(sys.modules) - by_torch)
from importlib.metadata import entry_points
groups = ("solvers", "update_rules", "adjoint_solvers", "hooks")
plugins = [e.module for g in groups for e in entry_points(group="foldcore." + g)]
print(json.dumps(dict(torch=torch_seconds, own=own_seconds, modules=modules, plugins=plugins)))
"""
IMPORT = "import foldcore"
EVERYTHING = "from foldcore import *"
LIST = """
import foldcore
from foldcore.registry import adjoint_solvers, solvers, update_rules
for registry in (solvers, update_rules, adjoint_solvers):
    registry.names(), registry.describe(), registry.availability()
"""


def probe(statement: str, extra_path: Path | None = None) -> dict[str, object]:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if extra_path is not None:
        paths = [str(extra_path), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return report


def offenders(report: dict[str, object]) -> list[str]:
    """Return loaded modules that are forbidden, of a plugin's package, or an entry point's."""
    modules, plugins = report["modules"], report["plugins"]
    assert isinstance(modules, list)
    assert isinstance(plugins, list)
    return [
        name
        for name in modules
        if name.partition(".")[0] in FORBIDDEN or name.startswith("foldcore_") or name in plugins
    ]


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Return a directory with a plugin whose import must not happen."""
    metadata = tmp_path / "foldcore_planted-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: foldcore-planted\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[foldcore.solvers]\nplanted = foldcore_planted:Plugin\n"
        "[foldcore.hooks]\nplanted = foldcore_planted:Plugin\n"
    )
    (tmp_path / "foldcore_planted.py").write_text("import yaml\nraise SystemExit('imported')\n")
    return tmp_path


@pytest.mark.parametrize("statement", [IMPORT, EVERYTHING, LIST], ids=["import", "face", "list"])
def test_import_and_listing_load_no_plugin_and_no_heavy_module(
    statement: str, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = probe(statement, planted)
    assert "foldcore_planted" in str(report["plugins"])
    assert offenders(report) == []
    with capsys.disabled():
        print(f" [import torch {report['torch']:.2f} s, foldcore {report['own']:.2f} s more]")


@pytest.mark.parametrize(
    "statement", ["import yaml", "import scipy.sparse", "import foldcore_other"]
)
def test_the_probe_sees_planted_imports(statement: str, tmp_path: Path) -> None:
    (tmp_path / "foldcore_other.py").write_text("")
    assert offenders(probe(statement, tmp_path))


def test_the_probe_sees_a_loaded_plugin() -> None:
    load = "from foldcore.registry import solvers; solvers.usable_classes()"
    assert "foldcore.solvers.iterate" in offenders(probe(load))
