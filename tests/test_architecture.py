"""The architecture page is drawn from the import contract, and every room says what it holds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytest.importorskip("tomllib", reason="needs Python 3.11")
page = runpy.run_path(str(ROOT / "docs" / "_extensions" / "architecture_page.py"))


def rooms() -> list[str]:
    return [room for floor in page["floors"](ROOT) for room in floor]


def test_every_file_and_folder_of_the_core_is_a_room() -> None:
    here = {
        path.stem
        for path in (ROOT / "foldcore").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(here - {"__init__"}) == sorted(rooms())
    assert len(rooms()) <= 24


@pytest.mark.parametrize("room", rooms())
def test_every_room_says_in_a_sentence_what_may_be_found_there(room: str) -> None:
    said = page["sentence"](ROOT, room)
    assert said.endswith((".", ":"))
    assert f"(room-{room})=" in page["rooms_page"](ROOT)


def test_every_folder_inside_a_room_says_so_too() -> None:
    folders = [path.parent for path in (ROOT / "foldcore").rglob("__init__.py")]
    assert len(folders) > 20
    for folder in folders:
        text = (folder / "__init__.py").read_text()
        assert text.startswith('"""'), folder


def test_the_contract_is_short() -> None:
    assert len(page["floors"](ROOT)) <= 15


def test_the_page_is_in_the_table_of_contents() -> None:
    assert "\narchitecture\n" in (ROOT / "docs" / "index.md").read_text()
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in [word.strip("`.,;()") for word in text.split() if ".py`" in word]:
        assert (ROOT / "foldcore" / name.partition("`")[0]).exists(), name


def test_a_room_without_a_sentence_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "foldcore").mkdir()
    (tmp_path / "foldcore" / "attic.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="does not say"):
        page["sentence"](tmp_path, "attic")
