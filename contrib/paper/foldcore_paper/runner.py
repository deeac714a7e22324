"""Run the cells of an experiment, over processes, and resume what was interrupted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import joblib
import pandas as pd
import torch

from .errors import PaperError
from .experiment import AnyExperiment, Cell, Row, Settings, Workspace
from .provenance import fingerprint, provenance

RESULTS, PROVENANCE = "results.csv", "provenance.json"


@dataclass(frozen=True)
class RunFolder:
    """Files of one experiment's run: ``cells/`` while it goes on, then one tidy CSV."""

    path: Path

    @property
    def results(self) -> Path:
        """The tidy CSV."""
        return self.path / RESULTS

    def cell(self, cell: Cell) -> Path:
        """The finished rows of a cell."""
        return self.path / "cells" / f"{cell.name}.json"

    def checkpoint(self, cell: Cell) -> Path:
        """What an unfinished cell keeps."""
        return self.path / "cells" / f"{cell.name}.checkpoint"


def run_experiment(
    experiment: AnyExperiment,
    settings: Settings,
    folder: Path,
    *,
    jobs: int = 1,
    data: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Run what is missing and return all rows; they are also in ``folder/results.csv``.

    Invariant: cells that an earlier, interrupted run finished are read, not run again, and each cell
    is written whole or not at all.

    Args:
        experiment: What to run.
        settings: Its settings.
        folder: Where results go. It may hold an interrupted run of the same settings.
        jobs: Processes at once; cells of a serial experiment go one by one all the same.
        data: The user's data folder, for experiments that read one.
        on_progress: Told the numbers of finished and of all cells.

    Raises:
        PaperError: If the folder holds results of other settings.
    """
    target = RunFolder(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _claim(target, settings, device)
    cells = experiment.cells(settings)
    missing = [cell for cell in cells if not target.cell(cell).exists()]
    on_progress(len(cells) - len(missing), len(cells))
    processes = 1 if experiment.serial or device == "cuda" else jobs
    work = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")(
        joblib.delayed(_run_cell)(experiment, settings, cell, target, data, device)
        for cell in missing
    )
    for done, _ in enumerate(work, start=len(cells) - len(missing) + 1):
        on_progress(done, len(cells))
    rows = [row for cell in cells for row in _read_cell(target, cell)]
    table = pd.DataFrame(rows)
    _write(target.results, table.to_csv(index=False))
    return table


def _claim(target: RunFolder, settings: Settings, device: str) -> None:
    """Record what the folder's results are made with, or refuse to mix two settings."""
    record = target.path / PROVENANCE
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))["fingerprint"]
        if found != fingerprint(settings):
            raise PaperError(
                f"{target.path} holds results of other settings (fingerprint {found}, these are "
                f"{fingerprint(settings)}). Give --output another folder, or remove that one."
            )
    target.cell(Cell({})).parent.mkdir(parents=True, exist_ok=True)
    _write(record, json.dumps(provenance(settings, device), indent=2) + "\n")


def _run_cell(
    experiment: AnyExperiment,
    settings: Settings,
    cell: Cell,
    target: RunFolder,
    data: Path | None,
    device: str,
) -> str:
    torch.set_num_threads(1)  # tensors are small, and as many processes as cores may run
    checkpoint = target.checkpoint(cell)
    start = time.perf_counter()
    rows = experiment.run(settings, cell, Workspace(checkpoint, data, device))
    labelled: list[Row] = [{**cell.labels, **row} for row in rows]
    content = {"seconds": time.perf_counter() - start, "rows": labelled}
    _write(target.cell(cell), json.dumps(content))
    checkpoint.unlink(missing_ok=True)
    return cell.name


def _read_cell(target: RunFolder, cell: Cell) -> list[Row]:
    rows: list[Row] = json.loads(target.cell(cell).read_text(encoding="utf-8"))["rows"]
    return rows


def _write(path: Path, text: str) -> None:
    """Write whole or not at all: an interrupted write leaves the old file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
