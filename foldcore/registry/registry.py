"""Three registries of plugins: names listed from metadata, classes imported on request.

A plugin that cannot be used says why, in one of five told-apart ways, and never breaks the others::

    UnknownPluginError       no such name is installed or published
    PluginNotInstalledError  the name is published, its package is not installed
    PluginLoadError          its import or its unusable_reason() raised; the cause is chained
    PluginIncompatibleError  it does not fulfil the interface of this core
    PluginUnusableError      it states that it cannot work here, or the environment disables it

Two distributions that offer one name are a DuplicatePluginError until ``dist:name`` picks one.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic

from ..errors import (
    ConfigError,
    DuplicatePluginError,
    PluginError,
    PluginIncompatibleError,
    PluginLoadError,
    PluginNotInstalledError,
    PluginUnusableError,
    UnknownPluginError,
)
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.rule import UpdateRule
from ..interfaces.solver import Capabilities, Solver
from .candidate import Candidate, Examination, PluginT, Requirements
from .discovery import (
    DISABLE_VARIABLE,
    Offer,
    PluginInfo,
    PluginState,
    Scan,
    known_packages,
    normalise,
    scan,
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

_ERRORS: Mapping[PluginState, type[PluginError]] = {
    PluginState.UNKNOWN: UnknownPluginError,
    PluginState.NOT_INSTALLED: PluginNotInstalledError,
    PluginState.LOAD_FAILED: PluginLoadError,
    PluginState.INCOMPATIBLE: PluginIncompatibleError,
    PluginState.UNUSABLE: PluginUnusableError,
    PluginState.DUPLICATE: DuplicatePluginError,
}


class Registry(Generic[PluginT]):
    """All plugins of one kind, under their entry points' names or ``dist:name``.

    Invariant: only :meth:`load`, :meth:`info`, :meth:`state`, :meth:`usable_classes` and
    ``describe(load=True)`` import plugins. Outcomes, good or bad, are kept until :meth:`rescan`.
    Every method may be called from any thread.
    """

    def __init__(self, kind: str, group: str, requirements: Requirements) -> None:
        """Args: kind: For messages. group: Of the entry points. requirements: Of each class."""
        self.kind = kind
        self.group = group
        self._requirements = requirements
        self._lock = threading.RLock()
        self._scan: Scan | None = None
        self._installed: tuple[Candidate[PluginT], ...] = ()
        self._explicit: dict[str, Candidate[PluginT]] = {}

    @property
    def interface(self) -> type[Any]:
        """The abstract class that its plugins implement."""
        return self._requirements.interface

    def names(self) -> tuple[str, ...]:
        """Return the names that can be asked for, sorted. Imports nothing."""
        return tuple(sorted({c.name for c in self._candidates() if not c.disabled}))

    def load(self, name: str, path: str = "") -> type[PluginT]:
        """Return a plugin's class, imported and checked.

        Args:
            name: Its name, or ``dist:name``.
            path: Where the name stands in the configuration ("rule.inner.solver"), for messages.

        Raises:
            PluginError: The subclass of the plugin's state, see the top of this file.
        """
        outcome = self._judge(name)
        if outcome.plugin is not None:
            return outcome.plugin
        where = f" at {path}" if path else ""
        if outcome.state is PluginState.UNKNOWN:
            message = f"Unknown {self.kind} {name!r}{where}. {self._hint(name)}"
        else:
            message = f"{self.kind.capitalize()} {name!r}{where} {outcome.problem}"
        if outcome.state in (PluginState.UNKNOWN, PluginState.NOT_INSTALLED):
            message = f"{message.strip()} {self.availability()}"
        raise _ERRORS[outcome.state](message) from outcome.cause

    def register(self, name: str, plugin: type[PluginT], *, replace: bool = False) -> None:
        """Register a class under a name in this process only.

        Args:
            name: Not empty, without a colon.
            plugin: Fulfils the interface as an installed plugin does.
            replace: Take precedence over an installed or registered plugin of this name.

        Raises:
            ConfigError: If the name is empty or holds a colon.
            PluginIncompatibleError: If the class does not fulfil the interface.
            DuplicatePluginError: If the name is taken and ``replace`` is false.
        """
        subject = f"{self.kind.capitalize()} {name!r}"
        if not name or ":" in name:
            raise ConfigError(
                f"{subject} cannot be registered: a name is not empty and holds no ':', which "
                f"separates a package from a name. Choose another."
            )
        candidate = Candidate(name, plugin, self._requirements, replaces=replace)
        violation = self._requirements.violation(plugin)
        if violation is not None:
            raise PluginIncompatibleError(
                f"{subject} {candidate.incompatible_outcome(violation).problem}"
            )
        with self._lock:
            taken = _enabled(self._resolve(name))
            if taken and not replace:
                raise DuplicatePluginError(
                    f"{subject} cannot be registered: the name belongs to {taken[0]}. "
                    f"Choose another, or pass replace=True."
                )
            self._explicit[name] = candidate

    def unregister(self, name: str) -> None:
        """Undo :meth:`register`; an installed plugin of that name is found again.

        Raises:
            UnknownPluginError: If nothing is registered under the name in this process.
        """
        with self._lock:
            if name not in self._explicit:
                registered = ", ".join(sorted(self._explicit)) or "none"
                raise UnknownPluginError(
                    f"{self.kind.capitalize()} {name!r} cannot be unregistered: it was not "
                    f"registered in this process. Registered: {registered}."
                )
            del self._explicit[name]

    @contextmanager
    def registered(
        self, name: str, plugin: type[PluginT], *, replace: bool = False
    ) -> Iterator[type[PluginT]]:
        """Register for the length of a ``with`` block; what it replaced returns afterwards."""
        with self._lock:
            previous = self._explicit.get(name)
            self.register(name, plugin, replace=replace)
        try:
            yield plugin
        finally:
            with self._lock:
                self._explicit.pop(name, None)
                if previous is not None:
                    self._explicit[name] = previous

    def rescan(self) -> None:
        """Forget what was listed and loaded; the metadata is read again when next asked.

        Explicit registrations stay. Modules that Python has imported are not imported again.
        """
        with self._lock:
            self._scan = None
            for candidate in self._explicit.values():
                candidate.outcome = None

    def info(self, name: str) -> PluginInfo:
        """Return what is known of a name, loading it to find out. A bad plugin does not raise."""
        outcome = self._judge(name)
        found = self._resolve(name)
        if found:
            return (_enabled(found) or found)[0].info(self.group, outcome)
        package = self._known_package(name)
        return PluginInfo(name, self.group, package, None, outcome.state, outcome.problem)

    def state(self, name: str) -> PluginState:
        """Return the state of a name, loading it to find out. A bad plugin does not raise."""
        return self._judge(name).state

    def describe(self, *, load: bool = False) -> tuple[PluginInfo, ...]:
        """Return one line per plugin, whether installed, registered or only known, by name.

        Args:
            load: Load each plugin to tell its state. Otherwise nothing is imported, and plugins
                that nobody asked for read NOT_LOADED.
        """
        candidates = self._candidates()
        lines = []
        for candidate in candidates:
            rivals = [candidate] if candidate.disabled else self._resolve(candidate.name)
            lines.append(candidate.info(self.group, self._settle(rivals, load=load)))
        missing = known_packages(self.group).keys() - {c.name for c in candidates}
        lines.extend(self.info(name) for name in missing)
        return tuple(sorted(lines, key=lambda line: (line.name, line.package or "")))

    def usable_classes(self) -> dict[str, type[PluginT]]:
        """Load every plugin and return those that work, by name.

        The others are left out here, and named with their reason by :meth:`availability` and
        :meth:`describe` from then on.
        """
        outcomes = {name: self._judge(name).plugin for name in self.names()}
        return {name: plugin for name, plugin in outcomes.items() if plugin is not None}

    def availability(self) -> str:
        """Return sentences for a message: what is installed, broken, disabled and obtainable.

        Imports nothing: a plugin counts as broken once something tried to load it.
        """
        names = sorted({c.name for c in self._candidates()})
        working, broken, disabled = [], [], []
        for name in names:
            found = self._resolve(name)
            outcome = self._settle(found, load=False)
            if not _enabled(found):
                disabled.append(name)
            elif outcome is None or outcome.plugin is not None:
                working.append(name)
            else:
                broken.append(f"{name} ({outcome.state.value}: {outcome.reason})")
        missing = [
            f"{name} (pip install {package})"
            for name, package in sorted(known_packages(self.group).items())
            if name not in names
        ]
        sentences = (
            ("Installed", working or ["none"]),
            ("Broken", broken),
            (f"Disabled by {DISABLE_VARIABLE}", disabled),
            ("Known but not installed", missing),
            ("Unreadable metadata", self._scanned().unreadable),
        )
        return " ".join(f"{label}: {', '.join(items)}." for label, items in sentences if items)

    def _scanned(self) -> Scan:
        with self._lock:
            if self._scan is None:
                self._scan = scan(self.group)
                self._installed = tuple(
                    Candidate(offer.name, offer, self._requirements) for offer in self._scan.offers
                )
            return self._scan

    def _candidates(self) -> list[Candidate[PluginT]]:
        """Return all that compete for names: a replaced plugin answers to ``dist:name`` alone."""
        with self._lock:
            self._scanned()
            explicit = list(self._explicit.values())
            replaced = {c.name for c in explicit if c.replaces}
            return explicit + [c for c in self._installed if c.name not in replaced]

    def _resolve(self, name: str) -> list[Candidate[PluginT]]:
        package, colon, bare = name.rpartition(":")
        if not colon:
            return [c for c in self._candidates() if c.name == name]
        with self._lock:
            self._scanned()
            return [
                c
                for c in self._installed
                if isinstance(c.source, Offer)
                and c.name == bare
                and normalise(c.source.package) == normalise(package)
            ]

    def _settle(
        self, found: Sequence[Candidate[PluginT]], *, load: bool
    ) -> Examination[PluginT] | None:
        """Return the outcome of the candidates for one name; None if it takes a load to tell."""
        enabled = _enabled(found)
        if not enabled:
            return found[0].disabled_outcome()
        if len(enabled) == 1:
            return enabled[0].examine() if load else enabled[0].outcome
        names = [c.source.qualified_name for c in enabled if isinstance(c.source, Offer)]
        # One package that offers a name twice cannot be told apart by its own name.
        picks = " or ".join(repr(n) for n in names if names.count(n) == 1)
        advice = f"Write {picks} to pick one, or uninstall" if picks else "Uninstall or repair"
        rivals = " and ".join(str(c) for c in enabled)
        return Examination(
            PluginState.DUPLICATE,
            reason=rivals,
            problem=f"is offered more than once: by {rivals}. {advice} what is not wanted.",
        )

    def _judge(self, name: str) -> Examination[PluginT]:
        found = self._resolve(name)
        if found:
            outcome = self._settle(found, load=True)
            if outcome is not None:
                return outcome
        package = self._known_package(name)
        if package is not None:
            return Examination(
                PluginState.NOT_INSTALLED,
                problem=f"is known but not installed: pip install {package}.",
            )
        return Examination(PluginState.UNKNOWN, problem="is not the name of any plugin.")

    def _known_package(self, name: str) -> str | None:
        """Return the package that publishes a name, or ``dist:name``; None where none is known."""
        package, colon, bare = name.rpartition(":")
        known = known_packages(self.group).get(bare)
        return known if not colon or known == normalise(package) else None

    def _hint(self, name: str) -> str:
        offers = [c.source for c in self._candidates() if isinstance(c.source, Offer)]
        names = {*self.names(), *known_packages(self.group)}
        if ":" in name:
            names = {offer.qualified_name for offer in offers}
        close = difflib.get_close_matches(name.lower(), sorted(names), n=1)
        return f"Did you mean {close[0]!r}?" if close else ""


def _enabled(found: Sequence[Candidate[PluginT]]) -> list[Candidate[PluginT]]:
    return [candidate for candidate in found if not candidate.disabled]


solvers: Registry[Solver] = Registry(
    "solver", "foldcore.solvers", Requirements(Solver, {"capabilities": Capabilities})
)
update_rules: Registry[UpdateRule] = Registry(
    "update rule", "foldcore.update_rules", Requirements(UpdateRule)
)
adjoint_solvers: Registry[AdjointSolver] = Registry(
    "adjoint solver", "foldcore.adjoint_solvers", Requirements(AdjointSolver)
)
REGISTRIES: Mapping[str, Registry[Any]] = {
    "solver": solvers,
    "rule": update_rules,
    "adjoint": adjoint_solvers,
}
"""The three, by the entry of a configuration that names a plugin of theirs."""
