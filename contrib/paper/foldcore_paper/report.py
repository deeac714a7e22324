"""What is made from results: figures, and the tables as ``summary.md``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .experiment import AnyExperiment

SUMMARY = "summary.md"


def write_report(experiment: AnyExperiment, results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the figures and write the tables into ``folder``; return the paths of all."""
    sections = [f"# {experiment.title}"]
    for caption, table in experiment.summarise(results).items():
        sections.append(f"**{caption}**\n\n{markdown(table)}")
    summary = folder / SUMMARY
    summary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return [summary, *experiment.draw(results, folder)]


def markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, numbers with 4 significant digits."""
    head = [_escaped(str(column)) for column in table.columns]
    body = [[_escaped(shown(value)) for value in row] for row in table.itertuples(index=False)]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: object) -> str:
    """Return a table's value for readers."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
