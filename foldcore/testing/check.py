"""What a conformance check is, and what comes of running one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class Kind(str, Enum):
    """The three kinds of plugins, by the key that names them in a configuration."""

    SOLVER = "solver"
    RULE = "rule"
    ADJOINT = "adjoint"


class Outcome(str, Enum):
    """What came of one check."""

    PASSED = "passed"
    FAILED = "failed"
    EXPECTED = "failed as expected"
    """It failed, and ``expected_failures`` says why it may."""
    STALE = "passed, but is excused"
    """``expected_failures`` excuses a check that passes: remove the excuse."""
    NOT_APPLICABLE = "not applicable"
    BLOCKED = "not run"
    """The plugin cannot be loaded, or not be used on this machine."""


class ConformanceError(AssertionError):
    """A plugin does not keep a clause. An AssertionError, for it is a test's verdict on foreign code."""


CheckFunction = Callable[[Any], None]
Condition = Callable[[Any], str]


@dataclass(frozen=True)
class Check:
    """One check: a plain function that raises where a plugin does not keep a clause.

    Attributes:
        name: The function's name.
        kind: The kind of plugin it is for.
        clause: Number of the clause in docs/contract.md that it proves; 0 is its introduction.
        required: Whether it runs on every plugin of the kind; the others follow what is declared.
        summary: First line of the function's docstring.
        condition: What switches it on; empty where it is required.
        function: Takes the subject of its kind; raises :class:`ConformanceError`.
        applies: Subject -> why it does not apply, or "" where it does.
    """

    name: str
    kind: Kind
    clause: int
    required: bool
    summary: str
    condition: str
    function: CheckFunction = field(repr=False)
    applies: Condition = field(repr=False)

    @property
    def id(self) -> str:
        """``solver.check_batch``: unique among all checks."""
        return f"{self.kind.value}.{self.name}"


@dataclass(frozen=True)
class CheckResult:
    """What came of one check on one plugin.

    Attributes:
        message: Why, where it is not a plain pass.
        seconds: Time it took, in seconds.
        notes: What a reader should know of a check that passed, such as settings whose effect is
            said to be tested elsewhere.
        cause: The exception of a failed check.
    """

    check: Check
    outcome: Outcome
    message: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    cause: BaseException | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        return self.outcome not in (Outcome.FAILED, Outcome.STALE, Outcome.BLOCKED)

    def line(self) -> str:
        """Return one line of plain text."""
        text = f"{self.outcome.value:>24}  {self.check.id}  ({self.seconds:.2f} s)"
        details = [self.message, *self.notes] if self.message else [*self.notes]
        return "\n".join([text, *(" " * 26 + d.replace("\n", "\n" + " " * 26) for d in details)])


@dataclass(frozen=True)
class Report:
    """All results of one plugin.

    Attributes:
        plugin: Its name.
        results: In the order of running.
    """

    plugin: str
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The results that are not ok."""
        return tuple(result for result in self.results if not result.ok)

    @property
    def ok(self) -> bool:
        """Whether there are results and none of them is a failure."""
        return bool(self.results) and not self.failures

    def lines(self) -> list[str]:
        """Return plain text: one entry per check, and a summary."""
        counts = Counter(result.outcome for result in self.results)
        shown = ", ".join(f"{counts[o]} {o.value}" for o in Outcome if counts[o])
        seconds = sum(result.seconds for result in self.results)
        summary = f"{self.plugin}: {shown or 'no check ran'} ({seconds:.1f} s)"
        return [*(result.line() for result in self.results), summary]


class CheckList:
    """Collects the checks of one kind, in the order of their definition.

    Used as a decorator: ``@checks(clause=3)`` for a required one,
    ``@checks(clause=1, condition="capability duals", applies=...)`` for one that is switched on.
    """

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds
        self.checks: list[Check] = []

    def __call__(
        self,
        *,
        clause: int,
        condition: str = "",
        applies: Condition | None = None,
    ) -> Callable[[CheckFunction], CheckFunction]:
        def add(function: CheckFunction) -> CheckFunction:
            summary = (function.__doc__ or "").strip().splitlines()[0]
            for kind in self._kinds:
                self.checks.append(
                    Check(
                        name=function.__name__,
                        kind=kind,
                        clause=clause,
                        required=not condition,
                        summary=summary,
                        condition=condition,
                        function=function,
                        applies=applies or _always,
                    )
                )
            return function

        return add


def _always(subject: object) -> str:
    return ""


def require(truth: bool, message: str) -> None:
    """Raise :class:`ConformanceError` with a message unless something holds."""
    if not truth:
        raise ConformanceError(message)


def require_close(given: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Require |given - expected| <= tolerance·(1 + max |expected|), entry by entry; NaN never is."""
    require(
        given.shape == expected.shape,
        f"{what} has shape {tuple(given.shape)}, expected {tuple(expected.shape)}.",
    )
    if not given.numel():
        return
    error = float((given.detach() - expected.detach()).abs().max())
    bound = tolerance * (1 + float(expected.detach().abs().max()))
    require(error <= bound, f"{what} is off by {error:.1e}; at most {bound:.1e} is allowed.")


def require_equal(given: Tensor, expected: Tensor, what: str) -> None:
    """Require two tensors to be the same, bit for bit; NaN equals NaN."""
    same = given.shape == expected.shape and bool(
        torch.equal(given.isnan(), expected.isnan())
        and torch.equal(given.nan_to_num(), expected.nan_to_num())
    )
    if not same:
        raise ConformanceError(f"{what} is not the same, bit for bit{_distance(given, expected)}.")


def _distance(given: Tensor, expected: Tensor) -> str:
    if given.shape != expected.shape:
        return f": shape {tuple(given.shape)} instead of {tuple(expected.shape)}"
    return f": largest difference {float((given.double() - expected.double()).abs().max()):.1e}"
