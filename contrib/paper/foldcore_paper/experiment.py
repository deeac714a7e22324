"""What an experiment is: settings, independent cells of work, tidy rows, figures and a summary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict

Value = str | int | float | bool | None
Row = dict[str, Value]
"""One observation. Its keys are columns of the experiment's CSV."""


class Settings(BaseModel):
    """Settings of an experiment: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Cell:
    """A piece of work that needs no other cell: one seed of one method, say.

    Attributes:
        labels: What tells it apart. They become the leading columns of each of its rows.
        alone: Whether it compares times, so that it must have the machine to itself.
    """

    labels: Mapping[str, Value]
    alone: bool = False

    @property
    def name(self) -> str:
        """The cell's name: file name of its results and caption of its progress."""
        return "-".join(f"{key}={value}" for key, value in self.labels.items())


@dataclass(frozen=True)
class Workspace:
    """Where a cell works.

    Attributes:
        checkpoint: File that the cell alone may write, and read when it is resumed; it is removed
            when the cell is done.
        data: Folder of data that the user named, or None.
        device: torch device name for networks, "cuda" where there is one.
    """

    checkpoint: Path
    data: Path | None = None
    device: str = "cpu"


class Experiment(ABC, Generic[SettingsT]):
    """One experiment of the paper.

    Invariant: :meth:`run` depends on the settings and the cell alone (and on the clock, for columns
    whose name ends in ``_seconds``), so that a run may be interrupted, resumed and repeated.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    settings_class: ClassVar[type[Settings]]

    @abstractmethod
    def cells(self, settings: SettingsT) -> list[Cell]:
        """Return the cells of a run, in the order they are started."""

    def cells_for(self, settings: SettingsT, data: Path | None) -> list[Cell]:
        """Return the cells of a run that may read the user's data folder; by default it reads none."""
        return self.cells(settings)

    @abstractmethod
    def run(self, settings: SettingsT, cell: Cell, workspace: Workspace) -> list[Row]:
        """Do a cell's work; return its observations without the cell's labels."""

    @abstractmethod
    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        """Draw the figures of the results into ``folder`` and return their paths."""

    @abstractmethod
    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return the tables a reader wants first: caption -> table."""


AnyExperiment = Experiment[Any]
