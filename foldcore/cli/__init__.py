"""The command ``foldcore``: plugins, check, schema, doctor, new-plugin."""

from .app import app

__all__ = ["app"]
