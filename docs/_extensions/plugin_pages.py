"""One page per package of plugins/ and contrib/: its README, then its options from its config."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from configuration_page import options_table

from foldcore.registry import REGISTRIES

LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)]+)\)")


def plugin_pages(root: Path) -> dict[str, str]:
    """Return the pages by file name below the generated folder, their index included."""
    pages: dict[str, str] = {}
    listed: dict[str, list[str]] = {"plugins": [], "contrib": []}
    for group, names in listed.items():
        for project in sorted((root / group).glob("*/pyproject.toml")):
            package = re.search(r'^name = "(.+)"', project.read_text(encoding="utf-8"), re.M)
            if package is None:
                raise ValueError(f"{project}: states no name")
            names.append(package[1])
            pages[f"plugins/{package[1]}.md"] = _page(root, project.parent, package[1])
    trees = [
        f"## {title}\n\n```{{toctree}}\n:maxdepth: 1\n\n" + "\n".join(listed[group]) + "\n```\n"
        for title, group in (("Plugins", "plugins"), ("Packages on top", "contrib"))
    ]
    pages["plugins/index.md"] = "# Packages\n\n" + "\n".join(trees)
    return pages


def _page(root: Path, folder: Path, package: str) -> str:
    readme = (folder / "README.md").read_text(encoding="utf-8")
    return LINK.sub(lambda found: _relinked(root, folder, found), readme) + _options(package)


def _relinked(root: Path, folder: Path, found: re.Match[str]) -> str:
    """Point a README's relative link to the page of the site that shows its target."""
    target, hash_, anchor = found[1].partition("#")
    path = (folder / target).resolve()
    if not path.exists():
        raise ValueError(f"{folder}/README.md links to {target}, which does not exist")
    docs = root / "docs"
    if path.is_relative_to(docs):
        return f"](/{path.relative_to(docs).as_posix()}{hash_}{anchor})"
    return "](https://pypi.org/project/foldcore/)"


def _options(package: str) -> str:
    """Return the tables of every plugin that the package offers."""
    parts: list[str] = []
    for part, registry in REGISTRIES.items():
        for point in sorted(entry_points(group=registry.group), key=lambda one: one.name):
            if point.dist is None or point.dist.name != package:
                continue
            config: Any = registry.load(point.name).config_class
            name = f"{part} `{point.name}`"
            body = options_table(config) if config.model_fields else "It has no options.\n"
            parts.append(f"\n### All options of the {name}\n\n{body}")
    return "".join(parts)
