"""The checks as one parametrised pytest function. Only this file knows pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..check import Kind, Outcome
from ..problems.known_problem import KnownProblem
from .planning import Planned, plan


def conformance(
    plugin: object,
    *,
    kind: Kind | str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    effects: Mapping[str, str] | None = None,
    problems: Sequence[KnownProblem] = (),
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Planned], None]:
    """Return a test function with one case per check that applies to a plugin.

    The whole test file of a plugin::

        from foldcore.testing import conformance
        test_conformance = conformance("osqp")

    Checks are switched on by what the plugin declares; those that every plugin must pass cannot be
    left out. ``expected_failures={"check_batch": "why"}`` names honest exceptions: the check still
    runs and must fail. A name that is no check, or an excuse without a reason, is an error when the
    file is collected. Where a plugin cannot work on this machine, every case is skipped with the
    reason; where it fails to load, ``check_loads`` fails with it.

    Arguments and errors are those of :func:`foldcore.testing.run_conformance`.
    """
    import pytest  # nothing but this function needs it

    planned = plan(
        plugin,
        kind=kind,
        config=config,
        settings=settings,
        effects=effects,
        problems=problems,
        expected_failures=expected_failures,
    )

    def case(one: Planned) -> Any:
        marks = []
        if one.excuse:
            marks.append(pytest.mark.xfail(reason=one.excuse, strict=True))
        if one.outcome is Outcome.BLOCKED:
            marks.append(pytest.mark.skip(reason=one.reason))
        return pytest.param(one, id=one.check.id, marks=marks)

    cases = [case(one) for one in planned if one.outcome is not Outcome.NOT_APPLICABLE]

    @pytest.mark.parametrize("planned", cases)
    def test_conformance(planned: Planned) -> None:
        if planned.subject is None:
            pytest.fail(planned.reason, pytrace=False)
        planned.check.function(planned.subject)

    return test_conformance
