"""The command: lists every plugin whatever its state, diagnoses layers, and says errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from foldcore.cli import app
from foldcore.config import PluginConfig
from foldcore.interfaces import API_VERSION
from foldcore.interfaces.solver import Capabilities, Solver
from foldcore.registry import solvers
from foldcore.registry.discovery import PluginInfo, PluginState

PROBLEM = """
import torch, foldcore
qp = foldcore.QuadraticProgram(
    P=torch.eye(3).double(), q=foldcore.Param(3), A=torch.ones(1, 3).double(),
    b=torch.ones(1).double(), lower=torch.zeros(3).double(),
)
box = foldcore.QuadraticProgram(
    P=torch.eye(2).double(), q=torch.zeros(2).double(), lower=foldcore.Param(2), upper=1.0
)
"""


class Unusable(Solver):
    api_version = API_VERSION
    config_class = PluginConfig
    capabilities = Capabilities(frozenset())

    def __init__(self, config: PluginConfig) -> None:
        pass

    @classmethod
    def unusable_reason(cls) -> str | None:
        return "its [licence] expired"

    def open(self, structure: object) -> object:  # type: ignore[override]
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of problems; the path is restored afterwards."""
    before = set(sys.modules)
    (tmp_path / "planted_problems.py").write_text(PROBLEM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name == "planted_problems":
            del sys.modules[name]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def configure(folder: Path, problem: str, **options: str) -> str:
    file = folder / "layer.json"
    file.write_text(json.dumps({"problem": f"planted_problems:{problem}", **options}))
    return str(file)


def test_plugins_lists_all_and_shows_what_is_wrong() -> None:
    with solvers.registered("expired", Unusable):
        plain, listed = run("plugins"), run("plugins", "--json")
    assert plain.exit_code == listed.exit_code == 0
    assert "its [licence] expired" in plain.stdout
    found = {(line["kind"], line["name"]): line for line in json.loads(listed.stdout)}
    assert found["solver", "expired"]["state"] == "unusable here"
    assert found["solver", "iterate"]["state"] == "usable"
    assert found["solver", "iterate"]["package"] == "foldcore"
    assert found["solver", "iterate"]["load_seconds"] is not None


def test_plugins_survives_a_plugin_that_ends_the_process(folder: Path) -> None:
    info = folder / "planted_exit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-exit\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[foldcore.solvers]\nleaver = planted_exit:Plugin\n")
    (folder / "planted_exit.py").write_text("raise SystemExit('bye')")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, '.'); from foldcore.cli import app; app()",
         "plugins"],
        capture_output=True, text=True, check=False, env={"COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "failed to load" in done.stdout
    assert "SystemExit: bye" in done.stdout


def test_a_hook_that_cannot_be_loaded_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PluginInfo(
        "loud", "foldcore.hooks", "planted-loud", "1.0", PluginState.LOAD_FAILED, "failed: no ears"
    )
    monkeypatch.setattr("foldcore.hooks.listeners", lambda: (broken,))
    done = run("plugins")
    assert "planted-loud" in done.stdout
    assert "hook loud: failed: no ears" in done.stdout


def test_schema_prints_json() -> None:
    done = run("schema")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["$ref"] == "#/$defs/FoldConfig"


def test_check_runs_the_kit_and_says_what_fails() -> None:
    good = run("check", "iterate", "--only", "check_config", "--only", "check_documented")
    assert good.exit_code == 0, good.output
    assert "2 of 2 checks of iterate are in order" in good.stdout
    with solvers.registered("expired", Unusable):
        bad = run("check", "expired", "--only", "check_config")
    assert bad.exit_code == 1
    assert "its [licence] expired" in bad.stdout
    misspelt = run("check", "iterate", "--only", "check_confg")
    assert misspelt.exit_code == 1
    assert "check_config" in misspelt.stderr


def test_unknown_plugin_is_one_line() -> None:
    done = run("check", "iterat")
    assert done.exit_code == 1
    assert "Unknown" in done.stderr
    assert "'iterate'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_is_one_line(folder: Path) -> None:
    done = run("doctor", "nowhere.yaml")
    assert done.exit_code == 1
    assert "nowhere.yaml" in done.stderr


def test_bugs_keep_their_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("foldcore.cli.examination.examine", broken)
    assert isinstance(run("doctor", configure(folder, "qp")).exception, KeyError)


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "foldcore", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("plugins", "check", "schema", "doctor"))


class TestDoctor:
    @pytest.fixture(autouse=True)
    def _plugins(self) -> None:
        for name in ("osqp", "newton", "pgd", "gmres", "lfpi"):
            pytest.importorskip(f"foldcore_{name}", reason=f"needs foldcore-{name}")

    def test_a_sound_layer(self, folder: Path) -> None:
        done = run("doctor", configure(folder, "qp", solver="osqp", rule="newton", adjoint="gmres"))
        assert done.exit_code == 0, done.output
        assert done.stdout.count("optimal") == 4
        assert "Nothing to improve was found." in done.stdout

    def test_samples_without_a_solution(self, folder: Path) -> None:
        np.savez(folder / "given.npz", lower=np.array([[0.0, 0.0], [2.0, 0.0]]))
        config = configure(folder, "box", solver="osqp", rule="newton", adjoint="gmres")
        done = run("doctor", config, "--params", "given.npz")
        assert done.exit_code == 1
        assert "infeasible" in done.stdout
        assert "1 samples failed" in done.stdout

    def test_parameters_from_a_torch_file(self, folder: Path) -> None:
        torch.save({"q": torch.tensor([[1.0, 2.0, 3.0]]).double()}, folder / "given.pt")
        config = configure(folder, "qp", solver="osqp", rule="newton", adjoint="gmres")
        done = run("doctor", config, "--params", "given.pt")
        assert done.exit_code == 0, done.output
        assert done.stdout.count("optimal") == 1

    @pytest.mark.parametrize("content", ["text", "list"])
    def test_files_that_hold_no_parameters(self, folder: Path, content: str) -> None:
        if content == "text":
            (folder / "given.pt").write_text("not a tensor")
        else:
            torch.save([1, 2], folder / "given.pt")
        config = configure(folder, "qp", solver="osqp", rule="newton", adjoint="gmres")
        done = run("doctor", config, "--params", "given.pt")
        assert done.exit_code == 1
        assert "given.pt" in done.stderr
        assert "Traceback" not in done.output

    def test_advice_is_printed(self, folder: Path) -> None:
        file = folder / "slow.yaml"
        file.write_text(
            textwrap.dedent("""\
                problem: planted_problems:qp
                solver: osqp
                rule: {kind: pgd, step_size: 1.0e-4}
                adjoint: gmres
                """)
        )
        done = run("doctor", str(file), "--batch", "2")
        assert done.exit_code == 0, done.output
        assert "lfpi needs about" in done.stdout
        assert "Nothing to improve" not in done.stdout
