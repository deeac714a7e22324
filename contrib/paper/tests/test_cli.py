"""The command: what it runs in which order, what it writes, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path

import foldcore_paper.cli as cli
import pandas as pd
import pytest
from foldcore_paper.catalogue import EXPERIMENTS
from foldcore_paper.errors import PaperError
from foldcore_paper.experiment import AnyExperiment, Cell, Experiment, Row, Settings, Workspace
from foldcore_paper.settings import Size
from typer.testing import CliRunner

ORDER: list[str] = []


class Empty(Settings):
    """No settings."""


class Stub(Experiment[Empty]):
    """An experiment that does nothing and may be made to fail."""

    title = "Nothing"
    settings_class = Empty

    def __init__(self, name: str, error: BaseException | None = None) -> None:
        self.name = name  # type: ignore[misc]
        self.error = error

    def cells(self, settings: Empty) -> list[Cell]:
        return [Cell({"seed": seed}) for seed in range(2)]

    def run(self, settings: Empty, cell: Cell, workspace: Workspace) -> list[Row]:
        ORDER.append(f"{self.name}{cell.labels['seed']}")
        if self.error is not None and cell.labels["seed"] == 1:
            raise self.error
        return [{"value": 0.5}]

    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        path = folder / f"{self.name}.png"
        path.write_text(f"drawn from {len(results)} rows")
        return [path]

    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {"Values | medians": results[["seed", "value"]]}


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stub]:
    ORDER.clear()
    found = {name: Stub(name) for name in EXPERIMENTS}

    def settings(experiment: AnyExperiment, size: Size, path: Path | None = None) -> Settings:
        return Empty()

    monkeypatch.setattr("foldcore_paper.catalogue.experiment_named", lambda name: found[name])
    monkeypatch.setattr(cli, "experiment_named", lambda name: found[name])
    monkeypatch.setattr(cli, "read_settings", settings)
    return found


def call(*arguments: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr."""
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_run_all_keeps_the_papers_order(stubs: dict[str, Stub], tmp_path: Path) -> None:
    code, _, _ = call("run", "all", "--quick", "--output", tmp_path, "--jobs", 1)
    assert code == 0
    assert [f"{name}{seed}" for name in EXPERIMENTS for seed in (0, 1)] == ORDER
    assert sorted(path.name for path in (tmp_path / "quick").iterdir()) == sorted(EXPERIMENTS)


def test_of_all_one_failure_keeps_no_other_from_running(
    stubs: dict[str, Stub], tmp_path: Path
) -> None:
    stubs["stepsize"].error = PaperError("no data here")
    stubs["bilinear"].error = ZeroDivisionError("a fault")
    code, _, errors = call("run", "all", "--output", tmp_path, "--jobs", 1)
    assert code == 1
    assert ORDER[-1] == f"{list(EXPERIMENTS)[-1]}1"
    assert "foldcore-paper: no data here" in errors
    assert "foldcore-paper: bilinear: cell seed=1 failed: ZeroDivisionError: a fault" in errors
    assert "Traceback" in errors
    assert "in run" in errors


def test_a_run_writes_results_tables_figures_and_provenance(
    stubs: dict[str, Stub], tmp_path: Path
) -> None:
    code, out, _ = call("run", "portfolio", "--output", tmp_path, "--jobs", 1)
    folder = tmp_path / "full" / "portfolio"
    assert code == 0
    assert {path.name for path in folder.iterdir()} == {
        "cells", "portfolio.png", "provenance.json", "results.csv", "summary.md",
    }  # fmt: skip
    assert "portfolio 1/2 seed=0" in out, "a log has a line for each cell"
    assert (folder / "summary.md").read_text() == (
        "# Nothing\n\n**Values | medians**\n\n"
        "| seed | value |\n| --- | --- |\n| 0 | 0.5 |\n| 1 | 0.5 |\n"
    )


def test_figures_redraws_from_the_results_alone(stubs: dict[str, Stub], tmp_path: Path) -> None:
    call("run", "portfolio", "--output", tmp_path, "--jobs", 1)
    folder = tmp_path / "full" / "portfolio"
    made = [folder / "portfolio.png", folder / "summary.md"]
    before = [path.read_text() for path in made]
    for path in made:
        path.unlink()
    ORDER.clear()
    code, out, _ = call("figures", "--output", tmp_path)
    assert code == 0
    assert [path.read_text() for path in made] == before
    assert not ORDER
    assert all(str(path) in out for path in made)


def test_ctrl_c_says_that_the_run_goes_on(stubs: dict[str, Stub], tmp_path: Path) -> None:
    stubs["portfolio"].error = KeyboardInterrupt()
    code, _, errors = call("run", "portfolio", "--output", tmp_path, "--jobs", 1)
    assert code == 130
    assert errors == (
        "foldcore-paper: interrupted. Finished cells are kept: the same command goes on from there.\n"
    )
    stubs["portfolio"].error = None
    ORDER.clear()
    assert call("run", "portfolio", "--output", tmp_path, "--jobs", 1)[0] == 0
    assert ORDER == ["portfolio1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "portfoli"), "no experiment is named 'portfoli'. There are: convergence,"),
        (("run", "convergence", "--config", "absent.yaml"), "absent.yaml: no such file."),
        (("run", "convergence", "--config", "bad.yaml"), "bad.yaml: not readable as YAML"),
        (("run", "convergence", "--config", "unknown.yaml"), "unknown setting 'instnces'."),
        (("run", "all", "--config", "bad.yaml"), "--config holds the settings of one experiment"),
        (("figures", "--output", "nowhere"), "nowhere holds no results."),
    ],
)
def test_what_cannot_run_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("instances: [1")
    Path("unknown.yaml").write_text("instnces: 1")
    code, out, errors = call(*arguments)
    assert code == 1
    assert out == ""
    assert errors.startswith("foldcore-paper: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_results_of_other_settings_are_refused_by_the_command(
    stubs: dict[str, Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("run", "portfolio", "--output", tmp_path, "--jobs", 1)

    class Other(Empty):
        value: int = 1

    monkeypatch.setattr(cli, "read_settings", lambda *_: Other())
    code, _, errors = call("run", "portfolio", "--output", tmp_path, "--jobs", 1)
    assert code == 1
    assert "holds results of other settings" in errors


def test_list_names_every_experiment(stubs: dict[str, Stub]) -> None:
    code, out, _ = call("list")
    assert code == 0
    assert all(name in out for name in EXPERIMENTS)
