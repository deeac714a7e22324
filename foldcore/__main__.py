"""``python -m foldcore`` is the command ``foldcore``."""

from .cli import app

app(prog_name="foldcore")
