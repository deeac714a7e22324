"""``foldcore check NAME``: the conformance kit outside pytest."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from ..testing import iter_conformance
from .console import out


def check_plugin(name: str, kind: str | None, only: Sequence[str] | None) -> bool:
    """Run the kit, print each result as it comes, and return whether all checks passed.

    Raises:
        ConfigError: If the plugin is unknown, or a check or kind does not exist.
    """
    failed = total = 0
    for result in iter_conformance(name, kind=kind, only=only):
        total += 1
        failed += not result.ok
        mark = "[green]ok[/]  " if result.ok else "[red]FAIL[/]"
        clause = f"clause {result.check.clause}"
        outcome = escape(result.outcome.value)
        out.print(f"{mark} {result.check.id:44} {clause:10} {result.seconds:6.2f} s  {outcome}")
        if result.message:
            style = None if result.ok else "red"
            out.print(f"       {result.message}", soft_wrap=True, markup=False, style=style)
        for note in result.notes:
            out.print(f"       {note}", soft_wrap=True, markup=False)
    out.print(f"{total - failed} of {total} checks of {escape(name)} are in order")
    return failed == 0 and total > 0
