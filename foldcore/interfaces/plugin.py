"""What solvers, update rules and adjoint solvers have in common: how they are built and refused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ..config import PluginConfig


class Plugin(ABC):
    """Built from its config (``Plugin(config)``).

    Attributes:
        api_version: The version of these interfaces the plugin was written for. Every plugin
            states it itself; the registry refuses others.
        config_class: The pydantic model of its options.
        config: The options it was built from.
    """

    api_version: ClassVar[int]
    config_class: ClassVar[type[PluginConfig]]
    config: PluginConfig

    @abstractmethod
    def __init__(self, config: PluginConfig) -> None:
        """Args: config: An instance of ``config_class``."""

    @classmethod
    def unusable_reason(cls) -> str | None:
        """Return why this plugin cannot work on this machine, or None where it can."""
        return None
