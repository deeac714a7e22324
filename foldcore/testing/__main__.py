"""``python -m foldcore.testing`` prints the conformance checks as a Markdown table."""

from .kit import markdown_table

print(markdown_table(), end="")
