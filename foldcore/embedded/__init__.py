"""Plugins that ship with the core and register through the same entry points as all others."""
