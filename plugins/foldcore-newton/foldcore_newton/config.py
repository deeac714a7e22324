"""Options of the Newton rule."""

from __future__ import annotations

from foldcore import PluginConfig


class NewtonConfig(PluginConfig):
    """``newton`` has no options."""
