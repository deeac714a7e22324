"""Steps of a rule on the graph: what the modes that unfold differentiate."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...interfaces.rule import BoundRule
from ...solution import Solution, Status


class Iterates:
    """Steps of a rule on the graph, with the worst report of the inner folds met on the way."""

    def __init__(self, bound: BoundRule) -> None:
        self._bound = bound
        self.inner: dict[str, Solution] = {}
        self.failed: Tensor | None = None

    def run(self, state: Tensor, iterations: int) -> Tensor:
        """Return the state after ``iterations`` steps, on the graph. Shape (B, s)."""
        for _ in range(iterations):
            state = self._bound.step(state)
            self._note(self._bound.inner_reports())
            failed = self._bound.failed()
            if failed is not None:
                self.failed = failed if self.failed is None else self.failed | failed
        return state

    def _note(self, reports: Mapping[str, Solution]) -> None:
        for name, report in reports.items():
            held = self.inner.get(name)
            if held is None or _failures(report.status) >= _failures(held.status):
                self.inner[name] = report


def _failures(status: tuple[Status, ...]) -> int:
    return sum(not one.ok for one in status)
