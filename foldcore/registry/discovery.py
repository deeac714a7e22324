"""What is installed, read from packaging metadata alone: nothing here imports a plugin."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.metadata import Distribution, EntryPoint, MetadataPathFinder, distributions
from importlib.resources import files

DISABLE_VARIABLE = "FOLDCORE_DISABLE_PLUGINS"
"""Environment variable that hides entry-point plugins: "all", or names split by commas."""


class PluginState(str, Enum):
    """What is known of a plugin. All but the first two have an error of their own."""

    USABLE = "usable"
    """Loaded and checked."""
    NOT_LOADED = "not loaded"
    """Installed; nobody asked for it yet."""
    UNKNOWN = "unknown"
    NOT_INSTALLED = "known, not installed"
    LOAD_FAILED = "failed to load"
    INCOMPATIBLE = "incompatible"
    UNUSABLE = "unusable here"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class PluginInfo:
    """One line of a plugin listing.

    Attributes:
        name: The name that a configuration uses.
        group: The entry-point group, which is the kind of plugin.
        package: The distribution, or None for a plugin registered in this process.
        version: The distribution's version; None as above, and where it is not installed.
        state: What is known of it.
        error: Why it cannot be used; empty for the states USABLE and NOT_LOADED.
        target: ``module:attribute`` of the plugin; empty where it is not installed.
        load_seconds: Time its import took, in seconds; None where it was not loaded.
    """

    name: str
    group: str
    package: str | None
    version: str | None
    state: PluginState
    error: str = ""
    target: str = ""
    load_seconds: float | None = None


@dataclass(frozen=True)
class Offer:
    """One entry point of one installed distribution, not imported yet."""

    entry_point: EntryPoint
    package: str
    version: str

    @property
    def name(self) -> str:
        return self.entry_point.name

    @property
    def qualified_name(self) -> str:
        """``dist:name``, which stays unambiguous when two distributions offer one name."""
        return f"{self.package}:{self.name}"

    @property
    def disabled(self) -> bool:
        """Whether the environment variable hides it at this moment."""
        hidden = {part.strip() for part in os.environ.get(DISABLE_VARIABLE, "").split(",")}
        return bool(hidden & {"all", self.name, self.qualified_name})

    def __str__(self) -> str:
        return f"{self.package} {self.version} ({self.entry_point.value})"


@dataclass(frozen=True)
class Scan:
    """All offers of one group, and the distributions whose metadata could not be read."""

    offers: tuple[Offer, ...]
    unreadable: tuple[str, ...]


def normalise(package: str) -> str:
    """Return a distribution's name as PEP 503 compares it, however it is spelt."""
    return re.sub(r"[-_.]+", "-", package).lower()


def scan(group: str) -> Scan:
    """Read the entry points of a group from the metadata on ``sys.path``.

    Invariant: a distribution counts once, where Python finds it first, however often ``sys.path``
    or an editable install shows it. One with malformed metadata is reported, never raised for.
    """
    # Both caches are keyed by a directory's time, which an install within one tick of the file
    # system's clock does not change. Up to Python 3.11 the first call does not reach the second
    # cache, whose method is not yet a class method there: hence the instance.
    importlib.invalidate_caches()
    MetadataPathFinder().invalidate_caches()
    offers: list[Offer] = []
    unreadable: list[str] = []
    seen: set[str] = set()
    for distribution in distributions():
        try:
            found = _offers_of(distribution, group)
        # Third parties' metadata can be malformed in any way; what went wrong is kept for messages.
        except Exception as error:
            where = distribution.locate_file("")
            unreadable.append(f"a distribution in {where} ({type(error).__name__}: {error})")
            continue
        if found and normalise(found[0].package) not in seen:
            seen.add(normalise(found[0].package))
            offers.extend(found)
    return Scan(tuple(sorted(offers, key=lambda o: (o.name, o.package))), tuple(unreadable))


def _offers_of(distribution: Distribution, group: str) -> list[Offer]:
    text = distribution.read_text("entry_points.txt")
    if text is None or f"[{group}]" not in text:
        return []
    # Two equal lines in one file are one entry point; two that differ stay two, and clash.
    entries = dict.fromkeys(
        (entry.name, entry.value) for entry in distribution.entry_points if entry.group == group
    )
    package = distribution.metadata["Name"]
    if not package:
        raise ValueError("its METADATA states no Name")
    version = distribution.metadata["Version"] or "of unknown version"
    return [Offer(EntryPoint(name, value, group), package, version) for name, value in entries]


@cache
def known_packages(group: str) -> Mapping[str, str]:
    """Return the catalogue of published plugins of a group: name -> package that offers it."""
    text = files(__package__).joinpath("known_plugins.json").read_text(encoding="utf-8")
    catalogue: dict[str, dict[str, str]] = json.loads(text)
    return catalogue.get(group, {})
