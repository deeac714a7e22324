"""Run the checks on a plugin, without pytest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..check import CheckResult, Kind, Report
from ..problems.known_problem import KnownProblem
from .planning import kinds_of, plan


def iter_conformance(
    plugin: object,
    *,
    kind: Kind | str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    effects: Mapping[str, str] | None = None,
    problems: Sequence[KnownProblem] = (),
    expected_failures: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
) -> Iterator[CheckResult]:
    """Run the checks one by one and yield each result as it comes; see :func:`run_conformance`.

    The arguments are checked at once, before the first result is asked for.
    """
    planned = plan(
        plugin,
        kind=kind,
        config=config,
        settings=settings,
        effects=effects,
        problems=problems,
        expected_failures=expected_failures,
        only=only,
    )
    return (one.run() for one in planned)


def run_conformance(
    plugin: object,
    *,
    kind: Kind | str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    effects: Mapping[str, str] | None = None,
    problems: Sequence[KnownProblem] = (),
    expected_failures: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
) -> Report:
    """Run every check that applies to a plugin and return the report.

    Args:
        plugin: A registered name, a plugin class, or an instance, whose config is then the base.
        kind: "solver", "rule" or "adjoint"; by default all kinds that the name is registered in.
        config: Options that differ from the defaults in every check.
        settings: Field -> value, or :class:`Setting`, that the settings check uses in place of its
            own guesses.
        effects: Field -> where its effect is tested, for options whose effect no answer shows. They
            are listed in the report.
        problems: Problems beside the kit's own, for a plugin that serves none or few of those.
        expected_failures: Check -> reason. The check still runs, and must fail. Where a name is
            registered in several kinds: "solver.check_batch".
        only: Names of the checks to run; all by default.

    Raises:
        PluginError: If no plugin of that name is installed.
        ConfigError: If another argument is wrong: a name that is no check, no kind or no option,
            or an excuse for a check that does not apply.
    """
    planned = plan(
        plugin,
        kind=kind,
        config=config,
        settings=settings,
        effects=effects,
        problems=problems,
        expected_failures=expected_failures,
        only=only,
    )
    return Report(kinds_of(plugin, kind)[0], tuple(one.run() for one in planned))
