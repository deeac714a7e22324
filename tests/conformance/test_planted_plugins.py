"""Checks that every plugin must pass catch what is planted for them, as installed packages or classes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ConfigDict, Field

from foldcore import (
    API_VERSION,
    AdjointSolution,
    AdjointSolver,
    FixedPointOperator,
    PluginConfig,
)
from foldcore.registry import PluginState, adjoint_solvers
from foldcore.testing import Kind, Outcome, all_checks, run_conformance

GOOD = '''
import torch
from foldcore import API_VERSION, AdjointSolution, AdjointSolver, PluginConfig

class Plugin(AdjointSolver):
    """Does nothing wrong at import."""

    api_version = API_VERSION
    config_class = PluginConfig

    def __init__(self, config):
        self.config = config

    def solve(self, operator, cotangent):
        raise NotImplementedError
'''

Install = Callable[[str, str], str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution that offers an adjoint solver on ``sys.path``."""

    def put(name: str, source: str) -> str:
        module = f"planted_{name}"
        metadata = tmp_path / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: planted-{name}\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(
            f"[foldcore.adjoint_solvers]\n{name} = {module}:Plugin\n"
        )
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        adjoint_solvers.rescan()
        return name

    yield put
    monkeypatch.undo()
    for module in [m for m in sys.modules if m.startswith("planted_")]:
        del sys.modules[module]
    adjoint_solvers.rescan()


EXIT = "import sys\nsys.exit(3)\n"
OLD = GOOD.replace("api_version = API_VERSION", "api_version = 0")
SLOW = "import time\nend = time.process_time() + 4\nwhile time.process_time() < end: pass\n" + GOOD
NOISY = GOOD + "\nprint('welcome')\n"
MEDDLING = GOOD + "\ntorch.set_default_dtype(torch.float64)\n"

INSTALLED = [
    ("exits", EXIT, "check_loads", "failed to load"),
    ("old", OLD, "check_loads", "interface version 0"),
    ("slow", SLOW, "check_import_time", "s of processor time"),
    ("noisy", NOISY, "check_import_changes_nothing", "printed 'welcome'"),
    ("meddling", MEDDLING, "check_import_changes_nothing", "torch's default dtype"),
]


@pytest.fixture(autouse=True)
def _same_dtype() -> Iterator[None]:
    """Undo what the meddling plugin does to this process, too: other tests run in it."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


class Good(AdjointSolver):
    """An adjoint solver whose description and configuration are sound."""

    api_version = API_VERSION
    config_class: type[PluginConfig] = PluginConfig

    def __init__(self, config: PluginConfig) -> None:
        self.config = config

    def solve(self, operator: FixedPointOperator, cotangent: object) -> AdjointSolution:
        raise NotImplementedError


class LaxConfig(PluginConfig):
    """Options that swallow typos."""

    model_config = ConfigDict(extra="ignore")


class Lax(Good):
    """Accepts any option."""

    config_class = LaxConfig


class VagueConfig(PluginConfig):
    """Options without units."""

    limit: float = Field(1.0, description="A limit.")


class Vague(Good):
    """Does not say in what unit its limit is."""

    config_class = VagueConfig


class HoldsAHandle(Good):
    """Keeps what cannot travel."""

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self.handle = lambda: None


DIRECT = [
    (Lax, "check_config", "would pass silently"),
    (Vague, "check_documented", "does not name its unit"),
    (HoldsAHandle, "check_pickling", "cannot be pickled"),
]


@pytest.mark.parametrize(("name", "source", "check", "words"), INSTALLED)
def test_each_bad_package_is_caught_by_its_check(
    install: Install, name: str, source: str, check: str, words: str
) -> None:
    (result,) = run_conformance(install(name, source), only=[check]).results
    assert result.outcome is Outcome.FAILED
    assert words in result.message


@pytest.mark.parametrize(("bad", "check", "words"), DIRECT)
def test_each_bad_class_is_caught_by_its_check(bad: type[Good], check: str, words: str) -> None:
    (result,) = run_conformance(bad, only=[check]).results
    assert result.outcome is Outcome.FAILED
    assert words in result.message


def test_every_check_of_plugins_is_proven() -> None:
    common = set.intersection(*({c.name for c in all_checks(k)} for k in Kind))
    functions = {c.name: c.function.__module__ for c in all_checks(Kind.RULE)}
    of_plugins = {name for name in common if functions[name].endswith(".plugin")}
    assert {entry[-2] for entry in (*INSTALLED, *DIRECT)} == of_plugins


def test_the_sound_package_passes(install: Install) -> None:
    name = install("sound", GOOD)
    checks = ["check_loads", "check_import_time", "check_import_changes_nothing"]
    assert run_conformance(name, only=checks).ok
    direct = ["check_config", "check_documented", "check_pickling"]
    assert run_conformance(Good, only=direct).ok


def test_a_package_that_exits_at_import_leaves_the_host_alive(install: Install) -> None:
    name = install("exits", EXIT)
    report = run_conformance(name)
    assert adjoint_solvers.state(name) is PluginState.LOAD_FAILED
    outcomes = {result.check.name: result.outcome for result in report.results}
    assert outcomes.pop("check_loads") is Outcome.FAILED
    assert set(outcomes.values()) == {Outcome.BLOCKED}
    assert "SystemExit: 3" in report.results[0].message
    assert not report.ok
