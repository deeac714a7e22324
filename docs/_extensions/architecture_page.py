"""The picture of the rooms, drawn from the import contract that keeps them apart."""

from __future__ import annotations

import ast
from pathlib import Path

import tomllib  # of Python 3.11; the pages are built there

_SEPARATORS = str.maketrans(":|", ",,")


def floors(root: Path) -> list[list[str]]:
    """Return the rooms of the core, topmost floor first, as the first import contract lists them."""
    contract = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    (rooms,) = (
        one
        for one in contract["tool"]["importlinter"]["contracts"]
        if one.get("containers") == ["foldcore"]
    )
    return [
        [room.strip(" ()") for room in floor.translate(_SEPARATORS).split(",")]
        for floor in rooms["layers"]
    ]


def sentence(root: Path, room: str) -> str:
    """Return the first sentence of a room's docstring.

    Raises:
        ValueError: If the room is missing or says nothing.
    """
    folder = root / "foldcore" / room
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not said:
        raise ValueError(f"{file} does not say what may be found there")
    return said.partition("\n\n")[0].replace("\n", " ")


def rooms_page(root: Path) -> str:
    """Return the picture and the list of rooms as Markdown, to be included in the page."""
    rows = [
        '<div class="floor">'
        + "".join(f'<a class="room" href="#room-{room}">{room}</a>' for room in floor)
        + "</div>"
        for floor in floors(root)
    ]
    picture = '<div class="house" role="img" aria-label="floors of the core">' + "\n".join(rows)
    lines = ["```{raw} html", picture, "</div>", "```", ""]
    for floor in floors(root):
        for room in floor:
            folder = (root / "foldcore" / room).is_dir()
            shown = f"{room}/" if folder else f"{room}.py"
            lines += [f"(room-{room})=", f"**`{shown}`** {sentence(root, room)}", ""]
    return "\n".join(lines)
