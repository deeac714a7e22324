"""Sphinx settings: `make docs` builds the site into docs-output/, with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

import foldcore

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "foldcore"
author = "the foldcore authors"
copyright = "the foldcore authors, MIT licence"
release = version = foldcore.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # formulas render without a network
    "generated_pages",
]
exclude_patterns = ["_extensions", "generated/rooms.md"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "foldcore"
html_static_path = ["_static"]
html_css_files = ["tables.css", "house.css"]
html_show_sphinx = False
