"""Count what layers say by warnings, which would otherwise be printed once and lost."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import foldcore as fc


@dataclass
class Observed:
    """Warnings of one block of code.

    Attributes:
        inaccurate: Samples that diffcp calls "Solved/Inaccurate" (count).
        adjoint_failures: Adjoint solves that did not converge (count).
    """

    inaccurate: int = 0
    adjoint_failures: int = 0


@contextmanager
def observed() -> Iterator[Observed]:
    """Count warnings of the block; those that are not counted here are shown as ever."""
    counts = Observed()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield counts
    for one in caught:
        if "Solved/Inaccurate" in str(one.message):
            counts.inaccurate += 1
        elif issubclass(one.category, fc.AdjointWarning):
            counts.adjoint_failures += 1
        elif not issubclass(one.category, fc.FoldcoreWarning):
            # What foldcore's other warnings tell is counted from its solutions.
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
