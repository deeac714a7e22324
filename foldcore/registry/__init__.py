"""What is installed: plugins by name, found through entry points and loaded on request."""

from .registry import (
    REGISTRIES,
    PluginInfo,
    PluginState,
    Registry,
    adjoint_solvers,
    solvers,
    update_rules,
)

__all__ = [
    "REGISTRIES",
    "PluginInfo",
    "PluginState",
    "Registry",
    "adjoint_solvers",
    "solvers",
    "update_rules",
]
