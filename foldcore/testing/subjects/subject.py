"""The plugin under test, with what its author says about it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ...config import PluginConfig
from ...errors import ConfigError
from ...registry.candidate import PluginT
from ...registry.registry import Registry, adjoint_solvers, solvers, update_rules
from ..check import Kind
from ..problems.known_problem import KnownProblem
from ..problems.known_problems import known_problems, smallest_problems

ResultT = TypeVar("ResultT")

REGISTRIES: Mapping[Kind, Registry[Any]] = {
    Kind.SOLVER: solvers,
    Kind.RULE: update_rules,
    Kind.ADJOINT: adjoint_solvers,
}


@dataclass(frozen=True)
class Setting:
    """A value of one config field whose effect shall be observed.

    Attributes:
        value: The other value.
        given: Options set in both runs, with and without the value.
        problem: Name of the kit's problem to observe it on; any where None.
    """

    value: Any
    given: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Options:
    """What an author tells the kit about a plugin; see :func:`foldcore.testing.conformance`."""

    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    effects: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[KnownProblem] = ()


class Subject(Generic[PluginT]):
    """One plugin class under its base configuration; makes fresh instances for the checks.

    Attributes:
        kind: Its kind.
        name: Its name, for messages.
        plugin_class: The class.
        options: What its author says of it.
        registered: The name it is installed under; None for a class that was given directly.
        notes: What the running check wants to tell beside its verdict; cleared by the runner.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        plugin_class: type[PluginT],
        options: Options,
        registered: str | None,
    ) -> None:
        self.kind = kind
        self.name = name
        self.plugin_class = plugin_class
        self.options = options
        self.registered = registered
        self.notes: list[str] = []
        self._remembered: dict[str, Any] = {}
        self._check_options()

    @property
    def config_class(self) -> type[PluginConfig]:
        return self.plugin_class.config_class

    @property
    def config(self) -> PluginConfig:
        """The base configuration."""
        return self.config_with()

    def config_with(self, **options: Any) -> PluginConfig:
        """Return the base configuration with some options changed."""
        return self.config_class.model_validate({**self.options.config, **options})

    def plugin(self, **options: Any) -> PluginT:
        """Return a new instance under the base configuration with some options changed."""
        make: Callable[[PluginConfig], PluginT] = self.plugin_class
        return make(self.config_with(**options))

    def has_field(self, name: str) -> bool:
        return name in self.config_class.model_fields

    def remember(self, key: str, make: Callable[[], ResultT]) -> ResultT:
        """Return ``make()``, computed once for all checks of this subject."""
        if key not in self._remembered:
            self._remembered[key] = make()
        value: ResultT = self._remembered[key]
        return value

    def used_by_build(self) -> Mapping[str, str]:
        """Return the fields that build() reads in the plugin's place, each with a note."""
        return {}

    def _check_options(self) -> None:
        for title, names in (
            ("settings", self.options.settings),
            ("effects", self.options.effects),
            ("config", self.options.config),
        ):
            unknown = [name for name in names if not self.has_field(name)]
            if unknown:
                raise ConfigError(
                    f"conformance of {self.name!r}: {title} names {unknown[0]!r}, which is no field "
                    f"of {self.config_class.__name__}. "
                    f"Fields: {', '.join(self.config_class.model_fields) or 'none'}."
                )
        silent = [name for name, reason in self.options.effects.items() if not reason.strip()]
        if silent:
            raise ConfigError(
                f"conformance of {self.name!r}: effects gives no reason for {silent[0]!r}; say "
                f"where its effect is tested."
            )


class ProblemSubject(Subject[PluginT]):
    """A plugin class that is run on problems: a solver or an update rule."""

    @property
    def candidates(self) -> tuple[KnownProblem, ...]:
        """The kit's problems and the author's."""
        return (*known_problems(), *self.options.problems)

    @property
    def supported(self) -> tuple[KnownProblem, ...]:
        """Those that the plugin accepts under the base configuration."""
        return self.remember("supported", lambda: self.accepted(self.candidates))

    @property
    def smallest(self) -> tuple[KnownProblem, ...]:
        """Problems of one variable and one sample that it accepts."""
        return self.accepted(smallest_problems())

    def accepted(self, problems: Sequence[KnownProblem]) -> tuple[KnownProblem, ...]:
        return tuple(known for known in problems if self.refusal(known, self.plugin()) is None)

    @abstractmethod
    def refusal(self, known: KnownProblem, plugin: PluginT) -> str | None:
        """Return why the plugin is not run on a problem, or None where it is."""
