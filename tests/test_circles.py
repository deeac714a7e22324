"""No module imports itself by way of others: of the core, of any plugin, of what builds on them.

Left out are imports inside functions, which happen after the modules are there, those by a name that
is put together at run time (importlib), and that ``import a.b`` runs the ``__init__`` of ``a``. Imports
for types alone count, for a reader follows them, too; so do those of names from a package's face.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(
    path.parent
    for path in (
        ROOT / "foldcore" / "__init__.py",
        *ROOT.glob("plugins/*/foldcore_*/__init__.py"),
        *ROOT.glob("contrib/*/foldcore_*/__init__.py"),
    )
)


def modules(package: Path) -> dict[str, Path]:
    """Return the files of a package by dotted name."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements that run at import, and those of ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from module_level(node)


def imports(package: Path) -> dict[str, set[str]]:
    """Return, for each module, the modules of the same package that it imports."""
    files = modules(package)
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        base = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = set()
        for node in module_level(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & files.keys()
            if not isinstance(node, ast.ImportFrom):
                continue
            above = base.split(".")[: len(base.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                target = whole if whole in files else origin
                if target in files and target != name:
                    graph[name].add(target)
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return one circle of a graph, empty if there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph[name]):
            found = walk(target, [*path, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_has_no_circle(package: Path) -> None:
    assert circle(imports(package)) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text("from .a import f\n")
    (package / "a.py").write_text("from .b import g\ndef f(): pass\n")
    (package / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .c import h\n"
    )
    (package / "c.py").write_text("from . import a\n")
    found = circle(imports(package))
    assert sorted(set(found)) == ["planted.a", "planted.b", "planted.c"]
    (package / "c.py").write_text("def late():\n    from . import a\n")
    assert circle(imports(package)) == []


@pytest.mark.parametrize(
    ("a", "b", "members"),
    [
        ("import planted.b\n", "import planted.a\n", ["planted.a", "planted.b"]),
        ("from . import f\n", "", ["planted", "planted.a"]),
        ("import os, planted\n", "", ["planted", "planted.a"]),
    ],
)
def test_a_planted_circle_of_another_form_is_found(
    tmp_path: Path, a: str, b: str, members: list[str]
) -> None:
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text("from .a import f\n")
    (package / "a.py").write_text(a)
    (package / "b.py").write_text(b)
    assert sorted(set(circle(imports(package)))) == members
