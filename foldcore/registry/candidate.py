"""One plugin of a registry: import it, check it against its interface, remember the outcome."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from ..config import PluginConfig
from ..interfaces import API_VERSION, OLDEST_API_VERSION
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.rule import UpdateRule
from ..interfaces.solver import Solver
from .discovery import DISABLE_VARIABLE, Offer, PluginInfo, PluginState

PluginT = TypeVar("PluginT", bound=Solver | UpdateRule | AdjointSolver)


@dataclass(frozen=True)
class Requirements:
    """What the core asks of a plugin's class besides its ``api_version``.

    Attributes:
        interface: The abstract class it subclasses.
        instances: Attributes of the class that must be instances of a type.
    """

    interface: type[Any]
    instances: Mapping[str, type[object]] = field(default_factory=dict)

    def violation(self, plugin: object) -> str | None:
        """Return what the object lacks, as a predicate, or None where it fulfils everything."""
        wanted = f"{self.interface.__module__}.{self.interface.__qualname__}"
        if not isinstance(plugin, type):
            return f"is {plugin!r}, not a class; it must be a subclass of {wanted}"
        if not issubclass(plugin, self.interface):
            return f"does not subclass {wanted}"
        version = _version_violation(plugin)
        if version is not None:
            return version
        config = getattr(plugin, "config_class", None)
        if not (isinstance(config, type) and issubclass(config, PluginConfig)):
            return f"has config_class {config!r}; it must be a subclass of PluginConfig"
        for name, kind in self.instances.items():
            if not isinstance(getattr(plugin, name, None), kind):
                return f"lacks the class attribute {name}; it must be a {kind.__qualname__}"
        if inspect.isabstract(plugin):
            missing = [n for n in dir(plugin) if _is_abstract(getattr(plugin, n, None))]
            return f"leaves these methods of {wanted} abstract: {', '.join(missing)}"
        return None


def _is_abstract(member: object) -> bool:
    return bool(getattr(member, "__isabstractmethod__", False))


def _version_violation(plugin: type[object]) -> str | None:
    owner = next((base for base in plugin.__mro__ if "api_version" in vars(base)), None)
    if owner is None:
        return "states no api_version; it must be a class attribute"
    # A version inherited from another package is that package's claim, and moves with its releases.
    if owner.__module__.partition(".")[0] != plugin.__module__.partition(".")[0]:
        return (
            f"inherits api_version from {owner.__module__}.{owner.__qualname__}; "
            f"it must state its own"
        )
    version = vars(owner)["api_version"]
    known = range(OLDEST_API_VERSION, API_VERSION + 1)
    if type(version) is not int or version not in known:
        return f"was written for interface version {version!r}"
    return None


@dataclass(frozen=True)
class Examination(Generic[PluginT]):
    """What came of a name or a candidate.

    Attributes:
        state: One of :class:`PluginState`.
        plugin: The class; None unless the state is USABLE.
        reason: The cause in a few words.
        problem: The whole message after its subject; empty where the state is USABLE.
        cause: The exception to chain.
        seconds: Time the import took.
    """

    state: PluginState
    plugin: type[PluginT] | None = None
    reason: str = ""
    problem: str = ""
    cause: BaseException | None = None
    seconds: float | None = None


class Candidate(Generic[PluginT]):
    """A plugin under a name, from an installed distribution or registered in this process."""

    def __init__(
        self,
        name: str,
        source: Offer | type[PluginT],
        requirements: Requirements,
        *,
        replaces: bool = False,
    ) -> None:
        """Args: source: An entry point or the class. replaces: Takes precedence over installed."""
        self.name = name
        self.source = source
        self.replaces = replaces
        self.outcome: Examination[PluginT] | None = None
        self._requirements = requirements

    def __str__(self) -> str:
        if isinstance(self.source, Offer):
            return str(self.source)
        return f"{self.source.__module__}.{self.source.__qualname__}, registered in this process"

    @property
    def disabled(self) -> bool:
        return isinstance(self.source, Offer) and self.source.disabled

    def examine(self) -> Examination[PluginT]:
        """Load and check once; afterwards return the remembered outcome."""
        # No lock is held while a plugin's module runs: it may itself ask a registry, in a thread
        # that waits for Python's import lock. Two threads may thus both check one plugin; Python
        # still imports its module once, and the first outcome stays.
        if self.outcome is None:
            outcome = self._examine()
            if self.outcome is None:
                self.outcome = outcome
        return self.outcome

    def info(self, group: str, outcome: Examination[PluginT] | None) -> PluginInfo:
        """Return the line of a listing; without an outcome the state reads NOT_LOADED."""
        offer = self.source if isinstance(self.source, Offer) else None
        target = (
            offer.entry_point.value
            if offer is not None
            else f"{self.source.__module__}:{getattr(self.source, '__qualname__', '')}"
        )
        return PluginInfo(
            name=self.name,
            group=group,
            package=offer.package if offer else None,
            version=offer.version if offer else None,
            state=outcome.state if outcome else PluginState.NOT_LOADED,
            error=outcome.problem if outcome else "",
            target=target,
            load_seconds=outcome.seconds if outcome else None,
        )

    def disabled_outcome(self) -> Examination[PluginT]:
        """Return the outcome of a plugin that the environment hides."""
        return Examination(
            PluginState.UNUSABLE,
            reason=f"disabled by {DISABLE_VARIABLE}",
            problem=f"is disabled: the environment variable {DISABLE_VARIABLE} hides {self}. "
            f"Remove 'all' or its name from that variable.",
        )

    def incompatible_outcome(
        self, violation: str, seconds: float | None = None
    ) -> Examination[PluginT]:
        """Return the outcome of a plugin that does not fulfil the interface."""
        return Examination(
            PluginState.INCOMPATIBLE,
            reason=violation,
            problem=f"is incompatible with this core: {self} {violation}. This core supports "
            f"interface version {API_VERSION} (foldcore.interfaces.API_VERSION); install a "
            f"release of the plugin made for it.",
            seconds=seconds,
        )

    def _examine(self) -> Examination[PluginT]:
        started = time.perf_counter()
        seconds: float | None = None
        try:
            if isinstance(self.source, Offer):
                found = self.source.entry_point.load()
                seconds = time.perf_counter() - started
            else:
                found = self.source
            violation = self._requirements.violation(found)
            if violation is not None:
                return self.incompatible_outcome(violation, seconds)
            plugin = cast("type[PluginT]", found)
            reason = plugin.unusable_reason()
        # A plugin may raise anything, and a script's sys.exit() must not end the host.
        except (Exception, SystemExit) as error:
            return self._failed_outcome(error, seconds)
        if reason is None:
            return Examination(PluginState.USABLE, plugin=plugin, seconds=seconds)
        return Examination(
            PluginState.UNUSABLE,
            reason=str(reason),
            problem=f"cannot be used here: {reason} (stated by {self}). After a repair call "
            f"rescan() on the registry, or restart Python.",
            seconds=seconds,
        )

    def _failed_outcome(self, error: BaseException, seconds: float | None) -> Examination[PluginT]:
        reason = f"{type(error).__name__}: {error}"
        step = "failed to load" if seconds is None else "loaded, but its check failed"
        return Examination(
            PluginState.LOAD_FAILED,
            reason=reason,
            problem=f"{step}: {self} raised {reason}. Repair or reinstall the package, then "
            f"call rescan() on the registry, or restart Python.",
            cause=error,
            seconds=seconds,
        )
