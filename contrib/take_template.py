"""Copy the example plugin into the template of ``foldcore new-plugin``: ``make template``."""

from __future__ import annotations

import json
from pathlib import Path

import foldcore.cli
from foldcore.cli.scaffold import TEMPLATE

_LEFT_OUT = ("__pycache__", ".egg-info", "build", ".pytest_cache", ".mypy_cache", ".ruff_cache")


def read_example(folder: Path) -> dict[str, str]:
    """Return the files of the example plugin by path, sorted."""
    return {
        file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part in str(file.relative_to(folder)) for part in _LEFT_OUT)
    }


if __name__ == "__main__":
    example = read_example(Path(__file__).parent / "example-plugin")
    text = json.dumps(example, indent=1, ensure_ascii=False) + "\n"
    (Path(foldcore.cli.__file__).parent / TEMPLATE).write_text(text, encoding="utf-8")
