"""The three interfaces a plugin can implement. They do not know each other."""

API_VERSION = 1
"""Version of these interfaces. A plugin states the one it was written for as ``api_version``."""
