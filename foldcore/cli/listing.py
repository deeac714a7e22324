"""``foldcore plugins``: always works, whatever the plugins do."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

from rich.markup import escape

from .. import hooks
from ..errors import HookWarning
from ..registry.discovery import PluginInfo, PluginState
from ..registry.registry import REGISTRIES
from .console import new_table, out

_QUIET = (PluginState.USABLE, PluginState.NOT_INSTALLED)


def list_plugins() -> list[dict[str, Any]]:
    """Return one mapping per plugin, hooks included; each is imported to tell its state."""
    lines = [
        _line(kind, info)
        for kind, registry in REGISTRIES.items()
        for info in registry.describe(load=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HookWarning)  # the listing itself shows what is wrong
        lines.extend(_line("hook", info) for info in hooks.listeners())
    return lines


def _line(kind: str, info: PluginInfo) -> dict[str, Any]:
    return {"kind": kind, **asdict(info), "state": info.state.value}


def print_plugins(found: list[dict[str, Any]]) -> None:
    """Print the list as a table, and below it what is wrong with the plugins that have an error."""
    table = new_table("kind", "name", "package", "version", "state", "import")
    for line in found:
        seconds = line["load_seconds"]
        table.add_row(
            line["kind"],
            line["name"],
            escape(line["package"] or "(this process)"),
            line["version"] or "",
            line["state"],
            "" if seconds is None else f"{seconds:.2f} s",
        )
    out.print(table)
    quiet = {state.value for state in _QUIET}
    for line in found:
        if line["error"] and line["state"] not in quiet:
            text = f"\n{line['kind']} {line['name']}: {line['error']}"
            out.print(text, soft_wrap=True, markup=False)
