"""Pages that name things of the code name all of them, and READMEs tell their plugin's options."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from foldcore import errors
from foldcore.registry import REGISTRIES

ROOT = Path(__file__).resolve().parent.parent
READMES = sorted(ROOT.glob("plugins/*/README.md"))


def test_every_error_and_warning_is_on_its_page() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    classes = [
        name
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, (Exception, Warning))
    ]
    assert len(classes) > 20
    assert [name for name in classes if f"`{name}`" not in page] == []


def test_every_decision_is_in_order() -> None:
    pages = sorted(p.name for p in (ROOT / "docs" / "decisions").glob("0*.md"))
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))


def package_of(readme: Path) -> str:
    found = re.search(r'^name = "(.+)"', (readme.parent / "pyproject.toml").read_text(), re.M)
    assert found is not None
    return found[1]


def options_of(package: str) -> dict[str, set[str]]:
    """Return the options of each plugin that a package offers, by ``kind name``."""
    return {
        f"{registry.kind} {point.name}": set(registry.load(point.name).config_class.model_fields)
        for registry in REGISTRIES.values()
        for point in entry_points(group=registry.group)
        if point.dist is not None and point.dist.name == package
    }


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_a_readme_says_when_how_and_whence(readme: Path) -> None:
    found = sections(readme.read_text())
    assert [name for name in ("When to use it", "Options", "Source") if name not in found] == []


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_a_readme_tells_every_option_and_no_other(readme: Path) -> None:
    package = package_of(readme)
    options = options_of(package)
    if not options:
        pytest.skip(f"needs {package}")
    told = sections(readme.read_text()).get("Options", "")
    named = set(re.findall(r"`(\w+)`", told))
    for plugin, names in options.items():
        assert sorted(names - named) == [], plugin
    rows = set(re.findall(r"^\| `(\w+)`", told, flags=re.M))
    assert sorted(rows - set().union(*options.values())) == []
