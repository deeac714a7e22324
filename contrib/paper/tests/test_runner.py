"""Runs: resumed where they were interrupted, never mixed, each cell whole or not there."""

from __future__ import annotations

import json
import math
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from foldcore_paper.errors import CellError, PaperError
from foldcore_paper.experiment import Cell, Experiment, Row, Settings, Workspace
from foldcore_paper.runner import Advance, RunFolder, read_results, run_experiment


class PlantedSettings(Settings):
    cells: int = 4
    factor: float = 0.1


class Planted(Experiment[PlantedSettings]):
    """Cells that write down that they ran; the third fails while the file ``fault`` exists."""

    name = "planted"
    title = "A planted experiment"
    settings_class = PlantedSettings
    error: ClassVar[type[BaseException]] = ZeroDivisionError

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    @property
    def fault(self) -> Path:
        return self.notes / "fault"

    def ran(self) -> list[str]:
        return (self.notes / "ran").read_text().split()

    def cells(self, settings: PlantedSettings) -> list[Cell]:
        return [Cell({"method": "a", "seed": seed}) for seed in range(settings.cells)]

    def run(self, settings: PlantedSettings, cell: Cell, workspace: Workspace) -> list[Row]:
        with (self.notes / "ran").open("a") as notes:
            notes.write(f"{cell.labels['seed']} ")
        if cell.labels["seed"] == 2 and self.fault.exists():
            workspace.checkpoint.write_text("half done")
            raise self.error("planted")
        resumed = workspace.checkpoint.read_text() if workspace.checkpoint.exists() else None
        value = settings.factor / 3 * int(cell.labels["seed"] or 0)
        return [{"value": value, "nothing": None, "word": "NA", "resumed": resumed}]

    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        return []

    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {}


class OutOfData(Planted):
    error = PaperError


class Interrupted(Planted):
    error = KeyboardInterrupt


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_run_resumes_at_the_cell_that_failed(planted: Planted, folder: Path) -> None:
    planted.fault.touch()
    message = r"planted: cell method=a-seed=2 failed: ZeroDivisionError: planted"
    with pytest.raises(CellError, match=message):
        run_experiment(planted, PlantedSettings(), folder)
    assert planted.ran() == ["0", "1", "2"]
    assert not RunFolder(folder).results.exists()

    planted.fault.unlink()
    seen: list[Advance] = []
    results = run_experiment(planted, PlantedSettings(), folder, on_progress=seen.append)
    assert planted.ran() == ["0", "1", "2", "2", "3"]
    assert results["seed"].tolist() == [0, 1, 2, 3]
    assert [(one.done, one.total, one.cell) for one in seen] == [
        (2, 4, None), (3, 4, "method=a-seed=2"), (4, 4, "method=a-seed=3"),
    ]  # fmt: skip

    run_experiment(planted, PlantedSettings(), folder)
    assert len(planted.ran()) == 5, "a finished run runs nothing"


def test_a_failed_cells_checkpoint_is_kept_for_it_and_then_removed(
    planted: Planted, folder: Path
) -> None:
    planted.fault.touch()
    with pytest.raises(CellError):
        run_experiment(planted, PlantedSettings(), folder)
    planted.fault.unlink()
    results = run_experiment(planted, PlantedSettings(), folder)
    assert results["resumed"].dropna().to_dict() == {2: "half done"}
    assert not list(folder.glob("cells/*.checkpoint"))


def test_missing_data_and_ctrl_c_pass_as_they_are(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "fault").touch()
    for experiment, error in (
        (OutOfData(tmp_path), PaperError),
        (Interrupted(tmp_path), KeyboardInterrupt),
    ):
        with pytest.raises(error, match="planted"):
            run_experiment(experiment, PlantedSettings(), folder)
    assert [path.name for path in sorted(folder.glob("cells/*.json"))] == [
        "method=a-seed=0.json", "method=a-seed=1.json",
    ]  # fmt: skip


def test_two_processes_give_the_rows_of_one_in_the_same_order(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for jobs, one in enumerate(folders, start=1):
        run_experiment(Planted(tmp_path), PlantedSettings(), one, jobs=jobs)
    texts = [RunFolder(one).results.read_text() for one in folders]
    assert texts[0] == texts[1]


def test_a_failure_in_another_process_names_its_cell(planted: Planted, folder: Path) -> None:
    planted.fault.touch()
    with pytest.raises(CellError, match="cell method=a-seed=2 failed"):
        run_experiment(planted, PlantedSettings(), folder, jobs=2)
    planted.fault.unlink()
    assert len(run_experiment(planted, PlantedSettings(), folder, jobs=2)) == 4


def test_results_of_other_settings_are_not_mixed(planted: Planted, folder: Path) -> None:
    run_experiment(planted, PlantedSettings(), folder)
    before = RunFolder(folder).results.read_bytes()
    with pytest.raises(PaperError, match=r"out holds results of other settings .*--output"):
        run_experiment(planted, PlantedSettings(factor=0.2), folder)
    assert RunFolder(folder).results.read_bytes() == before
    assert len(planted.ran()) == 4


def foreign_cell(planted: Planted, tmp_path: Path, seed: int) -> str:
    """Return the content of a cell made with other settings."""
    other = tmp_path / "other"
    run_experiment(planted, PlantedSettings(factor=9.0), other)
    (planted.notes / "ran").unlink()
    return RunFolder(other).cell(Cell({"method": "a", "seed": seed})).read_text()


def test_a_cell_that_another_run_left_in_the_folder_is_run_again(
    planted: Planted, folder: Path, tmp_path: Path
) -> None:
    foreign = foreign_cell(planted, tmp_path, 1)
    expected = run_experiment(planted, PlantedSettings(), folder)
    (folder / "cells" / "method=a-seed=1.json").write_text(foreign)
    (planted.notes / "ran").unlink()
    found = run_experiment(planted, PlantedSettings(), folder)
    assert planted.ran() == ["1"]
    pd.testing.assert_frame_equal(found, expected)


def test_a_cell_overwritten_while_the_run_works_is_refused(
    planted: Planted, folder: Path, tmp_path: Path
) -> None:
    """Workers of a killed run live on for a while, and write where they were told to."""
    foreign = foreign_cell(planted, tmp_path, 1)

    def orphan(advance: Advance) -> None:
        if advance.cell == "method=a-seed=2":
            (folder / "cells" / "method=a-seed=1.json").write_text(foreign)

    with pytest.raises(
        PaperError, match=r"seed=1\.json was overwritten by a run of other settings"
    ):
        run_experiment(planted, PlantedSettings(), folder, on_progress=orphan)
    assert not RunFolder(folder).results.exists()
    assert len(run_experiment(planted, PlantedSettings(), folder)) == 4


def test_an_interrupted_write_leaves_no_cell(
    planted: Planted, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell's file appears by a rename alone: what a dying write leaves is no cell."""
    write = Path.write_text

    def dies(path: Path, text: str, *args: Any, **options: Any) -> int:
        if path.name.startswith("method=a-seed=1.json"):
            write(path, text[: len(text) // 2], *args, **options)
            raise OSError("disk full")
        return write(path, text, *args, **options)

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(OSError, match="disk full"):
        run_experiment(planted, PlantedSettings(), folder)
    monkeypatch.undo()
    assert [path.name for path in folder.glob("cells/*.json")] == ["method=a-seed=0.json"]
    assert len(run_experiment(planted, PlantedSettings(), folder)) == 4
    assert planted.ran() == ["0", "1", "1", "2", "3"]


def test_results_are_read_back_as_they_were_written(planted: Planted, folder: Path) -> None:
    results = run_experiment(planted, PlantedSettings(), folder)
    assert results["value"].tolist() == [0.1 / 3 * seed for seed in range(4)]
    assert results["word"].tolist() == ["NA"] * 4, "a word is not taken for a missing number"
    assert all(math.isnan(value) for value in results["nothing"])
    pd.testing.assert_frame_equal(results, read_results(RunFolder(folder).results))


def test_provenance_tells_settings_versions_and_machine(planted: Planted, folder: Path) -> None:
    run_experiment(planted, PlantedSettings(), folder)
    record = json.loads(RunFolder(folder).record.read_text())
    assert record["settings"] == {"cells": 4, "factor": 0.1}
    (made_with,) = record["runs"]
    assert made_with["versions"]["torch"] == metadata.version("torch")
    assert {"python", "machine", "device"} <= set(made_with)


def test_a_run_resumed_with_other_versions_says_so(
    planted: Planted, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.fault.touch()
    with pytest.raises(CellError):
        run_experiment(planted, PlantedSettings(), folder)
    planted.fault.unlink()
    monkeypatch.setattr("foldcore_paper.provenance.platform.python_version", lambda: "9.9.9")
    run_experiment(planted, PlantedSettings(), folder)
    runs = json.loads(RunFolder(folder).record.read_text())["runs"]
    assert [one["python"] == "9.9.9" for one in runs] == [False, True]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"seed": 1}, {"seed": 1}], "two cells are named 'seed=1'"),
        ([{"data": "a/b"}], "'data=a/b', which is no file name"),
    ],
)
def test_cells_that_would_share_or_leave_their_file_are_refused(
    planted: Planted, folder: Path, monkeypatch: pytest.MonkeyPatch, labels: list[Any], message: str
) -> None:
    monkeypatch.setattr(planted, "cells", lambda settings: [Cell(one) for one in labels])
    with pytest.raises(ValueError, match=message):
        run_experiment(planted, PlantedSettings(), folder)
    assert not folder.exists()


def test_a_run_leaves_the_number_of_threads_alone(planted: Planted, folder: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_experiment(planted, PlantedSettings(), folder)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class Timed(Planted):
    """Its first cell compares times, and asks for the user's data."""

    def cells_for(self, settings: PlantedSettings, data: Path | None) -> list[Cell]:
        first, *others = self.cells(settings)
        extra = [] if data is None else [Cell({"method": data.name, "seed": 9})]
        return [Cell(first.labels, alone=True), *others, *extra]


def test_cells_that_compare_times_run_after_all_others(tmp_path: Path) -> None:
    timed = Timed(tmp_path)
    table = run_experiment(timed, PlantedSettings(), tmp_path / "run")
    assert timed.ran() == ["1", "2", "3", "0"]
    assert table["seed"].tolist() == [0, 1, 2, 3]


def test_the_users_data_decides_the_cells(tmp_path: Path) -> None:
    timed = Timed(tmp_path)
    table = run_experiment(timed, PlantedSettings(), tmp_path / "run", data=tmp_path / "cifar")
    assert table["method"].tolist() == ["a", "a", "a", "a", "cifar"]
