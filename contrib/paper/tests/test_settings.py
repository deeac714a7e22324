"""Settings: every packaged file holds at every size, and a wrong one is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from foldcore_paper.catalogue import EXPERIMENTS, experiment_named
from foldcore_paper.errors import PaperError
from foldcore_paper.experiment import Experiment, Settings
from foldcore_paper.experiments.convergence import ConvergenceExperiment, ConvergenceSettings
from foldcore_paper.settings import Size, read_settings


@pytest.mark.parametrize("size", Size)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_packaged_file_holds_at_every_size(name: str, size: Size) -> None:
    experiment = experiment_named(name)
    assert isinstance(experiment, Experiment)
    assert experiment.name == name
    assert experiment.title
    settings = read_settings(experiment, size)
    cells = experiment.cells(settings)
    assert cells
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smaller_sizes_are_other_settings(name: str) -> None:
    """One of the sections would otherwise be laid over nothing."""
    experiment = experiment_named(name)
    read = [read_settings(experiment, size).model_dump_json() for size in Size]
    assert len(set(read)) == len(Size)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


COMPLETE = """
instances: 1
batch: 1
classes: 10
k: 2
temperature: 1.0
logit_bound: 1.0
floor: 0.01
step_size: 0.1
iterations: 50
every_step_until: 5
stride: 5
"""


def test_a_section_is_laid_over_the_top_level(tmp_path: Path) -> None:
    path = written(tmp_path, COMPLETE + "quick: {classes: 7}\ntiny:\n")
    read = {size: read_settings(ConvergenceExperiment(), size, path) for size in Size}
    assert all(isinstance(one, ConvergenceSettings) for one in read.values())
    assert [one.model_dump()["classes"] for one in read.values()] == [10, 7, 10]
    assert [one.model_dump()["k"] for one in read.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instances: [1", r"mine\.yaml: not readable as YAML: .*line 1"),
        ("- 1\n- 2", r"mine\.yaml: expected a mapping of settings, found list\."),
        ("", r"mine\.yaml: expected a mapping of settings, found NoneType\."),
        (COMPLETE + "quick: 3", r"mine\.yaml: quick: expected a mapping of settings, found int\."),
        (COMPLETE + "clases: 3", r"unknown setting 'clases'\. Did you mean 'classes'\? Possible: inst"),
        (COMPLETE.replace("stride: 5", ""), r"mine\.yaml: stride: Field required\.$"),
        (COMPLETE.replace("k: 2", "k: two"), r"mine\.yaml: k: .*valid integer.*, got 'two'\.$"),
        (COMPLETE.replace("k: 2", "k: 0"), r"mine\.yaml: k: .*greater than or equal to 1, got 0\.$"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PaperError, match=message) as caught:
        read_settings(ConvergenceExperiment(), Size.FULL, written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PaperError, match=r"absent\.yaml: no such file\. Give --config"):
        read_settings(ConvergenceExperiment(), Size.FULL, tmp_path / "absent.yaml")


def test_settings_are_frozen_and_closed() -> None:
    class Mine(Settings):
        value: int = 1

    with pytest.raises(ValueError, match="frozen"):
        Mine().value = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="Extra inputs"):
        Mine(other=1)  # type: ignore[call-arg]
