"""The table of ranks in docs/choosing.md is that of the plugins."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_every_row_of_the_table_is_what_the_installed_plugins_declare() -> None:
    spec = importlib.util.spec_from_file_location("documentation_ranks", DOCS / "ranks.py")
    assert spec is not None
    assert spec.loader is not None
    ranks = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = ranks
    spec.loader.exec_module(ranks)
    page = (DOCS / "choosing.md").read_text().splitlines()
    computed = ranks.table().splitlines()
    missing = [line for line in computed if line not in page]
    assert not missing, f"run `python docs/ranks.py` and put its table into choosing.md: {missing}"
    assert len(computed) >= 3, "two lines of heading and at least iterate"
