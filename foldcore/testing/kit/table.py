"""The list of checks as a Markdown table, for the documentation."""

from __future__ import annotations

from ..check import Check
from ..checks.catalogue import all_checks


def markdown_table() -> str:
    """Return one row per check: name, kind, clause of the contract, and when it runs."""
    rows = ["| check | kind | clause | runs | what it proves |", "|---|---|---|---|---|"]
    rows.extend(_row(check) for check in all_checks())
    return "\n".join(rows) + "\n"


def _row(check: Check) -> str:
    clause = str(check.clause) if check.clause else "introduction"
    runs = "always" if check.required else check.condition
    summary = check.summary.replace("|", "\\|")
    return f"| `{check.name}` | {check.kind.value} | {clause} | {runs} | {summary} |"
