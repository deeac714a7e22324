"""The hooks, one by one, from their specifications."""

from __future__ import annotations

import inspect

from foldcore.hooks import HookSpecs

INTRODUCTION = """\
# Hooks

A listener watches folds work and never changes them: progress, logging, profiling. Each function below is
optional and takes any subset of its arguments. An exception in a listener becomes a warning; the solve and
the other listeners go on. Two packages show how: [foldcore-progress](plugins/foldcore-progress.md) and
[foldcore-tensorboard](plugins/foldcore-tensorboard.md).
"""


def hooks_page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for name, function in vars(HookSpecs).items():
        if not name.startswith("foldcore_"):
            continue
        arguments = [one for one in inspect.signature(function).parameters if one != "self"]
        documentation = inspect.getdoc(function)
        if not documentation:
            raise ValueError(f"hook {name} has no documentation")
        summary, _, details = documentation.partition("\n\n")
        parts.append(f"## `{name}({', '.join(arguments)})`\n\n{summary}\n\n{_arguments(details)}")
    return "\n".join(parts)


def _arguments(details: str) -> str:
    lines = []
    for line in inspect.cleandoc(details.partition("\n")[2]).splitlines():
        name, colon, text = line.partition(": ")
        if colon and not line.startswith(" "):
            lines.append(f"- `{name}`: {text}")
        else:
            lines.append(f"  {line.strip()}")
    return "\n".join(lines) + "\n"
