"""What a rule computes of a problem's constants, once per session instead of once per call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..atoms import Projection, SetAtom
from ..interfaces.rule import BoundRule, InnerFold, PreparedRule, UpdateRule
from ..program.program import SmoothProgram
from ..program.structure import ProgramStructure

T = TypeVar("T")


class Constants:
    """Values that depend on a problem's constants alone, computed at the first call of a session.

    Constants are what the problem declared; like a solver's session, this does not follow who writes to a
    layer's buffers.

    Args:
        changed: What may differ between calls; see :meth:`foldcore.PreparedRule.bind`. None means
            everything.
        kept: What earlier calls of the session computed.
    """

    def __init__(
        self, changed: frozenset[str] | None = None, kept: dict[str, Any] | None = None
    ) -> None:
        self._changed = changed
        self._kept: dict[str, Any] = {} if kept is None else kept

    def fixed(self, fields: Collection[str]) -> bool:
        """Whether none of these data fields, "sets" or "regularizers" may differ between calls."""
        return self._changed is not None and self._changed.isdisjoint(fields)

    def once(self, name: str, fields: Collection[str], make: Callable[[], T]) -> T:
        """Return ``make()``; what an earlier call made where all it depends on is fixed.

        Args:
            name: Of the value, unique in the rule.
            fields: All that it depends on, besides the rule's configuration and the structure.
            make: Computes it: on the graph where a field may change, without gradient else.
        """
        if not self.fixed(fields):
            return make()
        if name not in self._kept:
            with torch.no_grad():
                self._kept[name] = make()
        value: T = self._kept[name]
        return value

    def once_for(
        self, name: str, fields: Collection[str], weight: Tensor, make: Callable[[], T]
    ) -> T:
        """Return likewise what depends on a weight, too, which changes seldom: it is compared.

        Args:
            weight: Without gradient. Shape (m,), shared by the batch; others are never kept.
        """
        if weight.ndim != 1 or not self.fixed(fields):
            return make()
        held = self._kept.get(name)
        if held is None or not torch.equal(held[0], weight):
            with torch.no_grad():
                held = self._kept[name] = (weight, make())
        value: T = held[1]
        return value


def prepared_projection(atom: SetAtom, fields: Collection[str], constants: Constants) -> Projection:
    """Return a set's projection, its factorisation made once where these fields are constants."""
    factors = constants.once("factors", fields, atom.factor)
    return atom.prepare() if factors is None else atom.prepare(factors)


class RuleOfConstants(UpdateRule):
    """An update rule that binds with what it may compute once: ``bind_with`` takes the place of ``bind``."""

    @abstractmethod
    def bind_with(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], constants: Constants
    ) -> BoundRule:
        """Bind to a batch of data.

        Args:
            program, inner: As of :meth:`UpdateRule.bind`.
            constants: Keeps what depends on the problem's constants alone.
        """

    def bind(self, program: SmoothProgram, inner: Mapping[str, InnerFold]) -> BoundRule:
        return self.bind_with(program, inner, Constants())

    def open(self, structure: ProgramStructure) -> PreparedRule:
        if type(self).bind is not RuleOfConstants.bind:
            # A subclass that overrides what version 1 knew must see every call.
            return super().open(structure)
        return _Prepared(self)


class _Prepared(PreparedRule):
    def __init__(self, rule: RuleOfConstants) -> None:
        self._rule = rule
        self._kept: dict[str, Any] = {}

    def bind(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], changed: frozenset[str]
    ) -> BoundRule:
        return self._rule.bind_with(program, inner, Constants(changed, self._kept))
