"""``foldcore new-plugin``: a ready package, made from the example plugin.

The template is ``plugin_template.json``, a copy of contrib/example-plugin that ``make template`` takes.
Lines of one kind of plugin end in a mark, ``# rule`` or ``<!-- rule -->``; blocks of a README stand
between ``<!-- rule -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path

from ..errors import ConfigError
from ..registry.registry import REGISTRIES

TEMPLATE = "plugin_template.json"
KINDS = tuple(REGISTRIES)
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_MARK = re.compile(r" *(?:#|<!--) ?(?P<kind>" + "|".join(KINDS) + r")(?: -->)?$")
_BLOCK = re.compile(r"^<!-- (\w+) -->\n(.*?)^<!-- end -->\n", flags=re.M | re.S)


def new_plugin(name: str, kinds: Collection[str], parent: Path) -> Path:
    """Write a package and return its folder, ``parent/foldcore-<name>``.

    Raises:
        ConfigError: If the name is no name or taken, a kind does not exist, or the folder is there.
    """
    _check_name(name, kinds)
    folder = parent / f"foldcore-{name}"
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another name, or --output.")
    text = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    for path, content in render(json.loads(text), name, kinds).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return folder


def render(template: Mapping[str, str], name: str, kinds: Collection[str]) -> dict[str, str]:
    """Return the files of a package by path.

    Args:
        template: The example's files by path.
        name: The plugin's name in configurations, such as "mysolver".
        kinds: Which of "solver", "rule" and "adjoint" it offers.
    """
    kept = {path: text for path, text in template.items() if _kind_of(path) in (None, *kinds)}
    rendered = {
        _renamed(path, name): _renamed(_only(text, kinds), name) for path, text in kept.items()
    }
    if len(kinds) > 1:
        return rendered
    # A package of one kind has the shape that all single plugins share.
    (kind,) = kinds
    return {
        path.replace(f"{kind}_config", "config"): text.replace(f".{kind}_config", ".config")
        for path, text in rendered.items()
    }


def _kind_of(path: str) -> str | None:
    parts = re.split(r"[/_.]", path)
    return next((kind for kind in KINDS if kind in parts), None)


def _only(text: str, kinds: Collection[str]) -> str:
    """Drop what belongs to other kinds, and the marks of what is kept."""
    chosen = _BLOCK.sub(lambda block: block[2] if block[1] in kinds else "", text)
    lines = []
    for line in chosen.splitlines():
        mark = _MARK.search(line)
        if mark is None:
            lines.append(line)
        elif mark["kind"] in kinds:
            lines.append(line[: mark.start()])
    joined = "\n".join(lines) + "\n" if lines else ""
    # What was dropped leaves its empty lines behind; Python's own pairs of them stay.
    return joined if joined == text else re.sub(r"\n{3,}", "\n\n", joined)


def _renamed(text: str, name: str) -> str:
    camel = "".join(part.capitalize() for part in re.split(r"[-_]", name))
    for old, new in (
        ("foldcore-example", f"foldcore-{name}"),
        ("foldcore_example", f"foldcore_{name.replace('-', '_')}"),
        ("Example", camel),
    ):
        text = text.replace(old, new)
    return re.sub(r'(?<=["`])example(?=["`])|^example(?= =)', name, text, flags=re.M)


def _check_name(name: str, kinds: Collection[str]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"new-plugin: {name!r} is no name of a plugin; take small letters and digits, parts "
            f"joined by - or _, such as my-solver."
        )
    for kind in kinds:
        taken = next((i for i in REGISTRIES[kind].describe() if i.name == name), None)
        if taken is not None:
            raise ConfigError(
                f"new-plugin: {kind} {name!r} is offered by {taken.package} already; choose another."
            )
