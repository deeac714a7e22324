"""Write the pages that are made from the code: configuration, plugins, hooks, checks, the figure."""

from __future__ import annotations

from pathlib import Path

from architecture_page import rooms_page
from configuration_page import configuration_page
from folding_figure import draw_folding
from hooks_page import hooks_page
from plugin_pages import plugin_pages
from reference_pages import reference_pages
from sphinx.application import Sphinx

from foldcore.testing import markdown_table

FOLDER = "generated"


def write_pages(app: Sphinx) -> None:
    """Write every generated page below the source folder, touching only those that changed."""
    source = Path(app.srcdir)
    target = source / FOLDER
    pages = {
        "configuration.md": configuration_page(),
        "hooks.md": hooks_page(),
        "checks.md": f"# What the conformance kit checks\n\n{markdown_table()}\n",
        "rooms.md": rooms_page(source.parent),
        **reference_pages(),
        **plugin_pages(source.parent),
    }
    for name, text in pages.items():
        file = target / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    draw_folding(target / "folding.svg")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
