"""The reference: every public name of the face and of each shelf, with what it says of itself."""

from __future__ import annotations

import inspect
from importlib import import_module

import foldcore

SHELVES = {
    "interfaces": "what a plugin derives from, and what the interfaces speak of",
    "solvers": "for solver plugins",
    "rules": "for update rules",
    "adjoints": "for adjoint solvers",
    "numerics": "batched numbers",
    "kkt": "the linear system of a solution",
    "atoms": "sets and terms, and how to write one",
}


def reference_pages() -> dict[str, str]:
    """Return the pages as Markdown, by path below the folder of generated pages."""
    pages = {"reference/face.md": _page("foldcore", "What a layer is composed of.")}
    for shelf in SHELVES:
        module = import_module(f"foldcore.{shelf}")
        text = (inspect.getdoc(module) or "").replace("\n\n", "\n").replace("\n", " ")
        pages[f"reference/{shelf}.md"] = _page(f"foldcore.{shelf}", text)
    toc = "\n".join(name.removeprefix("reference/").removesuffix(".md") for name in pages)
    shown = "\n".join(f"- [`foldcore.{s}`]({s}.md): {purpose}" for s, purpose in SHELVES.items())
    pages["reference/index.md"] = (
        "# Reference\n\nUsers find everything on [the face](face.md), `import foldcore as fc`. Authors of "
        f"plugins find their tools on shelves; every other module is private to the core.\n\n{shown}\n\n"
        f"```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    )
    return pages


def _page(module: str, text: str) -> str:
    owner = foldcore if module == "foldcore" else import_module(module)
    rows = []
    for name in sorted(owner.__all__, key=str.lower):
        value = getattr(owner, name)
        said = inspect.getdoc(value) if callable(value) else None
        summary = (said or type(value).__name__).partition("\n\n")[0].replace("\n", " ")
        rows.append(f"| `{name}` | {summary.replace('|', chr(92) + '|')} |")
    table = "\n".join(rows)
    return f"# `{module}`\n\n{text}\n\n| name | |\n|---|---|\n{table}\n"
