"""Which checks run on which plugin, and why others do not."""

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError
from ...interfaces.adjoint import AdjointSolver
from ...interfaces.rule import UpdateRule
from ...interfaces.solver import Solver
from ...registry.discovery import PluginState
from ..check import Check, CheckResult, Kind, Outcome
from ..checks.catalogue import all_checks
from ..problems.known_problem import KnownProblem
from ..subjects.adjoint import AdjointSubject
from ..subjects.rule import RuleSubject
from ..subjects.solver import SolverSubject
from ..subjects.subject import REGISTRIES, Options, Subject

_SUBJECTS: Mapping[Kind, type[Subject[Any]]] = {
    Kind.SOLVER: SolverSubject,
    Kind.RULE: RuleSubject,
    Kind.ADJOINT: AdjointSubject,
}
_INTERFACES: Mapping[Kind, type[Any]] = {
    Kind.SOLVER: Solver,
    Kind.RULE: UpdateRule,
    Kind.ADJOINT: AdjointSolver,
}


@dataclass(frozen=True)
class Planned:
    """One check that will run, or the reason why it will not.

    Attributes:
        subject: What it runs on; None where the plugin does not load.
        excuse: Why it may fail; empty where it may not.
        reason: Why it does not run, where ``outcome`` is BLOCKED or NOT_APPLICABLE; or, where it is
            FAILED, why that is known beforehand.
        outcome: None for a check that runs.
    """

    check: Check
    subject: Subject[Any] | None
    excuse: str = ""
    reason: str = ""
    outcome: Outcome | None = None

    def run(self) -> CheckResult:
        """Run the check; its own failure and the plugin's errors become the result."""
        if self.subject is None or self.outcome is not None:
            return CheckResult(self.check, self.outcome or Outcome.BLOCKED, self.reason)
        self.subject.notes.clear()
        started = time.perf_counter()
        failure = _failure(self.check, self.subject)
        seconds = time.perf_counter() - started
        notes = tuple(self.subject.notes)
        if failure is None:
            if not self.excuse:
                return CheckResult(self.check, Outcome.PASSED, "", seconds, notes)
            message = f"it passes, so that the excuse is out of date: {self.excuse}"
            return CheckResult(self.check, Outcome.STALE, message, seconds, notes)
        outcome = Outcome.EXPECTED if self.excuse else Outcome.FAILED
        message = _describe(failure)
        if self.excuse:
            message = f"{self.excuse} [{message}]"
        return CheckResult(self.check, outcome, message, seconds, notes, failure)


def _failure(check: Check, subject: Subject[Any]) -> BaseException | None:
    try:
        check.function(subject)
    # A plugin may raise anything, sys.exit() included: that is its verdict, and not the kit's end.
    except (Exception, SystemExit) as error:
        return error
    return None


def _describe(failure: BaseException) -> str:
    name = type(failure).__name__
    return str(failure) if name == "ConformanceError" else f"it raised {name}: {failure}"


def plan(
    plugin: object,
    *,
    kind: Kind | str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    effects: Mapping[str, str] | None = None,
    problems: Sequence[KnownProblem] = (),
    expected_failures: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
) -> list[Planned]:
    """Return what will run, in order; arguments and errors as of :func:`run_conformance`."""
    options = Options(config or {}, settings or {}, effects or {}, tuple(problems))
    title, kinds = kinds_of(plugin, kind)
    planned = [one for single in kinds for one in _plan_kind(plugin, title, single, options)]
    excuses = _excuses(planned, expected_failures or {}, title)
    chosen = None if only is None else _named(planned, only, title, "only")
    return [
        Planned(p.check, p.subject, excuses.get(p.check.id, ""), p.reason, p.outcome)
        for p in planned
        if chosen is None or p.check.id in chosen
    ]


def kinds_of(plugin: object, kind: Kind | str | None) -> tuple[str, tuple[Kind, ...]]:
    """Return the plugin's name and the kinds to check it as."""
    asked = None if kind is None else _kind(kind)
    if isinstance(plugin, str):
        bare = plugin.rpartition(":")[2]
        found = tuple(one for one in Kind if bare in REGISTRIES[one].names())
        if asked is not None:
            found = (asked,)
        if not found:
            for registry in REGISTRIES.values():
                if registry.state(plugin) is PluginState.NOT_INSTALLED:
                    registry.load(plugin)
            REGISTRIES[_nearest(plugin)].load(plugin)
        for one in found:
            if REGISTRIES[one].state(plugin) in (PluginState.UNKNOWN, PluginState.NOT_INSTALLED):
                REGISTRIES[one].load(plugin)
        return plugin, found
    plugin_class = plugin if isinstance(plugin, type) else type(plugin)
    found = tuple(one for one in Kind if issubclass(plugin_class, _INTERFACES[one]))
    if asked is not None and asked not in found:
        found = ()
    if not found:
        raise ConfigError(
            f"conformance: got {plugin!r}; expected a registered name, or a class or an instance "
            f"of {'a Solver, UpdateRule or AdjointSolver' if asked is None else asked.value}."
        )
    return plugin_class.__name__, found


def _kind(given: Kind | str) -> Kind:
    try:
        return Kind(given)
    except ValueError as error:
        possible = ", ".join(one.value for one in Kind)
        raise ConfigError(f"conformance: kind is {given!r}; possible: {possible}.") from error


def _nearest(name: str) -> Kind:
    """Return the kind among whose names the closest one is, for the error that it raises."""
    return max(
        Kind,
        key=lambda one: max(
            (difflib.SequenceMatcher(None, name, k).ratio() for k in REGISTRIES[one].names()),
            default=0.0,
        ),
    )


def _plan_kind(plugin: object, title: str, kind: Kind, options: Options) -> list[Planned]:
    checks = all_checks(kind)
    if isinstance(plugin, str):
        info = REGISTRIES[kind].info(plugin)
        if info.state is PluginState.UNUSABLE:
            reason = f"{info.state.value}: {info.error}"
            return [Planned(c, None, reason=reason, outcome=Outcome.BLOCKED) for c in checks]
        if info.state is not PluginState.USABLE:
            return _unloadable(checks, f"{info.state.value}: {info.error}")
        plugin_class: type[Any] = REGISTRIES[kind].load(plugin)
        subject = _SUBJECTS[kind](kind, title, plugin_class, options, plugin)
    elif isinstance(plugin, type):
        subject = _SUBJECTS[kind](kind, title, plugin, options, None)
    else:
        own: Any = plugin
        base = {name: getattr(own.config, name) for name in own.config.model_fields_set}
        merged = Options(
            {**base, **options.config}, options.settings, options.effects, options.problems
        )
        subject = _SUBJECTS[kind](kind, title, type(plugin), merged, None)
    planned = []
    for check in checks:
        reason = _inapplicable(check, subject)
        outcome = Outcome.NOT_APPLICABLE if reason else None
        planned.append(Planned(check, subject, reason=reason, outcome=outcome))
    return planned


def _inapplicable(check: Check, subject: Subject[Any]) -> str:
    """Return why a check does not apply; where the plugin raises on being asked, it does."""
    try:
        return check.applies(subject)
    except Exception:  # the check itself will raise it again, and report it as its result
        return ""


def _unloadable(checks: Sequence[Check], reason: str) -> list[Planned]:
    """Return a plan in which loading has failed already and nothing else can run."""
    return [
        Planned(check, None, reason=reason, outcome=Outcome.FAILED)
        if check.name == "check_loads"
        else Planned(check, None, reason="the plugin does not load", outcome=Outcome.BLOCKED)
        for check in checks
    ]


def _excuses(planned: Sequence[Planned], given: Mapping[str, str], title: str) -> dict[str, str]:
    by_id = {one.check.id: one for one in planned}
    excuses = {}
    for name, reason in given.items():
        (found,) = _named(planned, [name], title, "expected_failures")
        if not reason.strip():
            raise ConfigError(
                f"conformance of {title!r}: expected_failures gives no reason for {name!r}."
            )
        if by_id[found].outcome is Outcome.NOT_APPLICABLE:
            raise ConfigError(
                f"conformance of {title!r}: expected_failures excuses {name!r}, which does not apply "
                f"({by_id[found].reason}). Remove the excuse."
            )
        excuses[found] = reason
    return excuses


def _named(planned: Sequence[Planned], names: Collection[str], title: str, role: str) -> list[str]:
    """Return the ids of checks given by id or by a name that only one kind has."""
    ids = [one.check.id for one in planned]
    found = []
    for name in names:
        matches = [i for i in ids if name in (i, i.partition(".")[2])]
        if not matches:
            near = difflib.get_close_matches(name, [i.partition(".")[2] for i in ids], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"conformance of {title!r}: {role} names {name!r}, which is no check.{hint} "
                f"Possible: {', '.join(sorted(ids))}."
            )
        if len(matches) > 1 and role == "expected_failures":
            raise ConfigError(
                f"conformance of {title!r}: {name!r} is a check of several kinds; write "
                f"{' or '.join(repr(m) for m in matches)}."
            )
        found.extend(matches)
    return found
