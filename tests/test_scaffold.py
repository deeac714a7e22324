"""The template is the example plugin, and what is made of it names its own plugin only."""

from __future__ import annotations

import itertools
import json
import re
import runpy
from importlib.resources import files
from pathlib import Path

import pytest

import foldcore.cli
from foldcore.cli.scaffold import KINDS, TEMPLATE, new_plugin, render
from foldcore.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "contrib" / "example-plugin"
read_example = runpy.run_path(str(ROOT / "contrib" / "take_template.py"))["read_example"]
CHOICES = [c for size in (1, 2, 3) for c in itertools.combinations(KINDS, size)]


@pytest.fixture(scope="module")
def template() -> dict[str, str]:
    text = files(foldcore.cli).joinpath(TEMPLATE).read_text(encoding="utf-8")
    content: dict[str, str] = json.loads(text)
    return content


def test_template_and_example_have_not_drifted_apart(template: dict[str, str]) -> None:
    assert template == read_example(EXAMPLE), "run: make template"


def test_all_kinds_under_the_old_name_are_the_example_without_marks(
    template: dict[str, str],
) -> None:
    made = render(template, "example", KINDS)
    assert made.keys() == template.keys()
    code = [path for path in made if path.endswith(".py")]
    assert len(code) > 8
    assert all(made[path] == template[path] for path in code)


@pytest.mark.parametrize("kinds", CHOICES, ids="-".join)
def test_a_package_offers_what_was_chosen(template: dict[str, str], kinds: tuple[str, ...]) -> None:
    made = render(template, "my-new_one", kinds)
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads(made["pyproject.toml"])["project"]
    groups = {"solver": "foldcore.solvers", "rule": "foldcore.update_rules",
              "adjoint": "foldcore.adjoint_solvers"}  # fmt: skip
    assert project["name"] == "foldcore-my-new_one"
    assert set(project["entry-points"]) == {groups[kind] for kind in kinds}
    for entries in project["entry-points"].values():
        ((name, target),) = entries.items()
        assert name == "my-new_one"
        module, _, attribute = target.partition(":")
        source = made[module.replace(".", "/") + ".py"]
        assert f"class {attribute}(" in source
    assert any("quadprog" in one for one in project["dependencies"]) == ("solver" in kinds)
    for kind in KINDS:
        assert (f"foldcore_my_new_one/{kind}.py" in made) == (kind in kinds)
        assert (f"tests/test_{kind}.py" in made) == (kind in kinds)
    assert ("foldcore_my_new_one/config.py" in made) == (len(kinds) == 1)


@pytest.mark.parametrize("kinds", CHOICES, ids="-".join)
def test_nothing_of_the_example_or_its_marks_is_left(
    template: dict[str, str], kinds: tuple[str, ...]
) -> None:
    for path, text in render(template, "mine", kinds).items():
        assert not re.search("example", path + text, flags=re.I), path
        assert "<!--" not in text, path
        assert not re.search(r"# (solver|rule|adjoint)$", text, flags=re.M), path
        if path.endswith(".py"):
            compile(text, path, "exec")


def test_files_are_written(tmp_path: Path, template: dict[str, str]) -> None:
    folder = new_plugin("mine", ["rule"], tmp_path)
    assert folder == tmp_path / "foldcore-mine"
    assert read_example(folder) == render(template, "mine", ["rule"])


@pytest.mark.parametrize("name", ["", "Mine", "1st", "my plugin", "my--plugin", "../mine", "mine-"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a plugin"):
        new_plugin(name, ["solver"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'iterate' is offered by foldcore already"):
        new_plugin("iterate", ["solver"], tmp_path)
    with pytest.raises(ConfigError, match=r"'gmres' is offered by foldcore-gmres"):
        new_plugin("gmres", ["adjoint"], tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "foldcore-mine").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        new_plugin("mine", ["solver"], tmp_path)
    assert not list((tmp_path / "foldcore-mine").iterdir())
