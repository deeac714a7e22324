"""All checks of the kit."""

from __future__ import annotations

from ..check import Check, Kind
from . import adjoint as adjoint_checks
from . import plugin as plugin_checks
from . import rule as rule_checks
from . import rule_gradients as rule_gradient_checks
from . import solver as solver_checks
from . import solver_data as solver_data_checks
from . import solver_gradients as solver_gradient_checks
from . import solver_status as solver_status_checks

_LISTS = (
    plugin_checks,
    solver_checks,
    solver_data_checks,
    solver_gradient_checks,
    solver_status_checks,
    rule_checks,
    rule_gradient_checks,
    adjoint_checks,
)


def all_checks(kind: Kind | str | None = None) -> tuple[Check, ...]:
    """Return the checks of one kind, or all, in the order of running."""
    wanted = tuple(Kind) if kind is None else (Kind(kind),)
    found = [check for module in _LISTS for check in module.checks.checks]
    return tuple(check for one in wanted for check in found if check.kind is one)
