"""What two plugins would write alike belongs into their toolkit: no long run of lines stands in both."""

from __future__ import annotations

import ast
import itertools
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 8
"""Lines; the signature that an interface dictates takes up to eight."""


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a file with their numbers, without empty ones and imports."""
    text = path.read_text()
    imports = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    numbered = enumerate(text.splitlines(), 1)
    return [(i, line.strip()) for i, line in numbered if line.strip() and i not in imports]


def repeats(root: Path) -> list[str]:
    """Return pairs of places in two plugins' sources that share more than LONGEST lines."""
    places: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path in sorted(root.glob("plugins/*/foldcore_*/**/*.py")):
        lines = code_lines(path)
        for start in range(len(lines) - LONGEST):
            run = tuple(line for _, line in lines[start : start + LONGEST + 1])
            places[run].append((path.relative_to(root), lines[start][0]))
    return sorted(
        f"{one}:{i} ~ {other}:{j}"
        for found in places.values()
        for (one, i), (other, j) in itertools.combinations(found, 2)
        if one.parts[1] != other.parts[1]
    )


def test_no_two_plugins_share_more_than_eight_lines() -> None:
    assert repeats(ROOT) == []


def test_a_planted_repeat_is_found(tmp_path: Path) -> None:
    body = "".join(f"x{i} = {i}\n" for i in range(LONGEST + 1))
    for name in ("one", "other"):
        package = tmp_path / "plugins" / f"foldcore-{name}" / f"foldcore_{name}"
        package.mkdir(parents=True)
        (package / "solver.py").write_text(f"import {name}\n\n{body}")
    assert len(repeats(tmp_path)) == 1
    for name in ("one", "other"):
        package = tmp_path / "plugins" / f"foldcore-{name}" / f"foldcore_{name}"
        (package / "solver.py").write_text(body.replace("x4 = 4\n", f"{name} = 4\n"))
    assert repeats(tmp_path) == []
