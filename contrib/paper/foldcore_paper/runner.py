"""Run the cells of an experiment, over processes, and resume what was interrupted."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch

from .errors import CellError, PaperError
from .experiment import AnyExperiment, Cell, Row, Settings, Workspace
from .provenance import environment, fingerprint, provenance

RESULTS, PROVENANCE = "results.csv", "provenance.json"


@dataclass(frozen=True)
class RunFolder:
    """Files of one experiment's run: ``cells/`` while it goes on, then one tidy CSV."""

    path: Path

    @property
    def results(self) -> Path:
        """The tidy CSV."""
        return self.path / RESULTS

    @property
    def record(self) -> Path:
        """Settings of the results, and versions and machine of each run that made some of them."""
        return self.path / PROVENANCE

    def cell(self, cell: Cell) -> Path:
        """The finished rows of a cell."""
        return self.path / "cells" / f"{cell.name}.json"

    def checkpoint(self, cell: Cell) -> Path:
        """What an unfinished cell keeps."""
        return self.path / "cells" / f"{cell.name}.checkpoint"


@dataclass(frozen=True)
class Advance:
    """How far a run is.

    Attributes:
        done, total: Numbers of finished and of all cells.
        cell: Name of the cell that has just finished; None at the start.
        seconds: What it took, wall clock.
    """

    done: int
    total: int
    cell: str | None = None
    seconds: float = 0.0


def run_experiment(
    experiment: AnyExperiment,
    settings: Settings,
    folder: Path,
    *,
    jobs: int = 1,
    data: Path | None = None,
    on_progress: Callable[[Advance], None] = lambda advance: None,
) -> pd.DataFrame:
    """Run what is missing and return all rows, as read back from ``folder/results.csv``.

    Invariant: cells that an earlier, interrupted run finished are read, not run again; each cell is
    written whole or not at all, and carries the fingerprint of its own settings, so that what another
    run leaves in the folder, even while this one works, never enters the results.

    Args:
        experiment: What to run.
        settings: Its settings.
        folder: Where results go. It may hold an interrupted run of the same settings.
        jobs: Processes at once; cells that compare times go one by one, after all others.
        data: The user's data folder, for experiments that read one.
        on_progress: Told how far the run is, at the start and after each cell.

    Raises:
        PaperError: If the folder holds results of other settings, or a cell lacks what it needs.
        CellError: If a cell fails otherwise; names it. What was finished before is kept.
    """
    target = RunFolder(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cells = experiment.cells_for(settings, data)
    _check_names(experiment, cells)
    _claim(target, settings)
    mark = fingerprint(settings)
    missing = [cell for cell in cells if not _finished(target, cell, mark)]
    if missing:
        _note_run(target, environment(device, data))
    already = len(cells) - len(missing)
    on_progress(Advance(already, len(cells)))
    together = [cell for cell in missing if not cell.alone]
    alone = [cell for cell in missing if cell.alone]
    done = already
    for part, processes in ((together, 1 if device == "cuda" else jobs), (alone, 1)):
        work = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")(
            joblib.delayed(_run_cell)(experiment, settings, cell, target, data, device)
            for cell in part
        )
        for name, seconds in work:
            done += 1
            on_progress(Advance(done, len(cells), name, seconds))
    rows = [row for cell in cells for row in _read_cell(target, cell, mark)]
    _write(target.results, pd.DataFrame(rows).to_csv(index=False))
    return read_results(target.results)


def read_results(path: Path) -> pd.DataFrame:
    """Read a tidy CSV as it was written: floats to the last digit, only empty fields missing."""
    return pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values=[""])


def _check_names(experiment: AnyExperiment, cells: list[Cell]) -> None:
    """Raise where two cells would write one file, or a name is no file name.

    Raises:
        ValueError: If so.
    """
    twice = [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]
    if twice:
        raise ValueError(
            f"{experiment.name}: two cells are named {twice[0]!r}; labels tell cells apart."
        )
    for cell in cells:
        if set(cell.name) & set('/\\:*?"<>|\0'):
            raise ValueError(
                f"{experiment.name}: a cell is named {cell.name!r}, which is no file name."
            )


def _claim(target: RunFolder, settings: Settings) -> None:
    """Record what the folder's results are made with, or refuse to mix two settings."""
    if target.record.exists():
        found = json.loads(target.record.read_text(encoding="utf-8"))["fingerprint"]
        if found != fingerprint(settings):
            raise PaperError(
                f"{target.path} holds results of other settings (fingerprint {found}, these are "
                f"{fingerprint(settings)}). Give --output another folder, or remove that one."
            )
        return
    target.cell(Cell({})).parent.mkdir(parents=True, exist_ok=True)
    _write(target.record, json.dumps(provenance(settings), indent=2) + "\n")


def _note_run(target: RunFolder, made_with: dict[str, Any]) -> None:
    """Add a run to the record, unless one with the same versions and machine is there."""
    record = json.loads(target.record.read_text(encoding="utf-8"))
    if made_with not in record["runs"]:
        record["runs"].append(made_with)
        _write(target.record, json.dumps(record, indent=2) + "\n")


def _run_cell(
    experiment: AnyExperiment,
    settings: Settings,
    cell: Cell,
    target: RunFolder,
    data: Path | None,
    device: str,
) -> tuple[str, float]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are small, and as many processes as cores may run
    checkpoint = target.checkpoint(cell)
    start = time.perf_counter()
    try:
        rows = experiment.run(settings, cell, Workspace(checkpoint, data, device))
    except PaperError:
        raise
    except Exception as error:
        raise CellError(
            f"{experiment.name}: cell {cell.name} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        torch.set_num_threads(threads)
    seconds = time.perf_counter() - start
    labelled: list[Row] = [{**cell.labels, **row} for row in rows]
    content = {"fingerprint": fingerprint(settings), "seconds": seconds, "rows": labelled}
    _write(target.cell(cell), json.dumps(content))
    checkpoint.unlink(missing_ok=True)
    return cell.name, seconds


def _finished(target: RunFolder, cell: Cell, mark: str) -> bool:
    path = target.cell(cell)
    return path.exists() and _load_cell(path).get("fingerprint") == mark


def _read_cell(target: RunFolder, cell: Cell, mark: str) -> list[Row]:
    """Return a finished cell's rows.

    Raises:
        PaperError: If another run, of other settings, has put its own cell there meanwhile.
    """
    content = _load_cell(target.cell(cell))
    if content.get("fingerprint") != mark:
        raise PaperError(
            f"{target.cell(cell)} was overwritten by a run of other settings (fingerprint "
            f"{content.get('fingerprint')}, these are {mark}). Processes of a killed run may still "
            f"work there: end them and give the same command again."
        )
    rows: list[Row] = content["rows"]
    return rows


def _load_cell(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, text: str) -> None:
    """Write whole or not at all: an interrupted write leaves the old file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
