"""The three interfaces a plugin can implement. They do not know each other."""

API_VERSION = 2
"""Version of these interfaces. A plugin states the one it was written for as ``api_version``.

2 adds :meth:`UpdateRule.open`, which has a default.
"""

OLDEST_API_VERSION = 1
"""Plugins written for this version still work: what came later has defaults."""
