"""The one place that raises or warns for samples, as the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...errors import FoldcoreWarning, NumericalError, warn_caller

Policy = Literal["raise", "warn", "ignore", "mask", "one_sided", "minimum_norm"]


def act(
    policy: Policy,
    samples: Sequence[int],
    *,
    raised: tuple[type[NumericalError], str],
    warned: tuple[type[FoldcoreWarning], str],
) -> None:
    """Raise where the policy is "raise", do nothing where it is "ignore", else warn the caller.

    Args:
        policy: Of the configuration, for what was found.
        samples: Those concerned; none means nothing was found.
        raised, warned: Class and whole message of the error, and of the warning.
    """
    if not samples or policy == "ignore":
        return
    if policy == "raise":
        error, message = raised
        raise error(message, samples)
    warning, message = warned
    warn_caller(message, warning)
