"""A sample's data in the arrays that DAQP reads: own memory, written where something changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldcore import ProgramStructure, SampleData, SampleStart, SparseArray

Floats = NDArray[np.float64]
Senses = NDArray[np.intc]

INFINITY = 1e30
"""What DAQP takes for infinite."""

ACTIVE, AT_LOWER, IMMUTABLE = 1, 2, 4
"""Bits of a constraint's sense, see https://darnstrom.github.io/daqp/parameters."""

_LIMITS = frozenset({"b", "h", "lower", "upper"})
_ARGUMENTS = {
    "P": ("H",), "q": ("f",), "A": ("A",), "G": ("A",), "b": ("bupper", "blower"),
    "h": ("bupper",), "lower": ("blower",), "upper": ("bupper",),
}  # fmt: skip


class Buffers:
    """minimise ½ xᵀHx + fᵀx  s.t.  blower <= [x; Ax] <= bupper with A = [A; G].

    DAQP keeps pointers to what it is given, so nothing of the caller's is handed over. The rows of
    x are there only if the problem has bounds; rows without a finite limit never bind.
    """

    def __init__(self, structure: ProgramStructure) -> None:
        template = structure.template
        n, p, m = structure.n, structure.n_equality, structure.n_inequality
        bounded = template.lower is not None or template.upper is not None
        self.n, self.curved = n, template.P is not None
        first = n if bounded else 0
        self.bounds, self.equalities = slice(0, first), slice(first, first + p)
        self.inequalities = slice(first + p, first + p + m)
        self.H, self.f, self.A = np.zeros((n, n)), np.zeros(n), np.zeros((p + m, n))
        self.bupper = np.full(first + p + m, INFINITY)
        self.blower = -self.bupper
        self.sense: Senses = np.zeros(first + p + m, dtype=np.intc)
        self.sense[self.equalities] = ACTIVE + IMMUTABLE
        self.scale = 0.0
        self._arguments: dict[frozenset[str], dict[str, Floats]] = {}
        self._targets: dict[str, tuple[Floats, ...]] = {
            "P": (self.H,), "q": (self.f,), "A": (self.A[:p],), "G": (self.A[p:],),
            "b": (self.bupper[self.equalities], self.blower[self.equalities]),
            "h": (self.bupper[self.inequalities],),
            "lower": (self.blower[self.bounds],), "upper": (self.bupper[self.bounds],),
        }  # fmt: skip

    def load(self, data: SampleData, changed: Iterable[str]) -> None:
        """Take over changed fields."""
        limits = False
        for name in changed:
            value = data.fields[name]
            array = value.to_dense() if isinstance(value, SparseArray) else value
            for target in self._targets[name]:
                target[...] = array
            limits = limits or name in _LIMITS
        if limits:
            for side in (self.bupper, self.blower):
                np.clip(side, -INFINITY, INFINITY, out=side)
            sizes = np.abs(np.concatenate([self.bupper, self.blower]))
            self.scale = float(sizes.max(initial=0.0, where=sizes < INFINITY))

    def arguments(self, changed: frozenset[str], sense: Senses) -> dict[str, Any]:
        """Return the arguments of DAQP's update that carry the changed fields and the senses."""
        found = self._arguments.get(changed)
        if found is None:
            names = {argument for name in changed for argument in _ARGUMENTS[name]}
            found = {name: getattr(self, name) for name in names}
            # DAQP's update fails on arrays without elements.
            found = self._arguments[changed] = {k: v for k, v in found.items() if v.size}
        return {**found, "sense": sense} if sense.size else found

    def senses(self, start: SampleStart | None) -> Senses:
        """Return the senses with the constraints that bind at ``start`` marked as active."""
        if start is None or start.inequality is None or start.lower is None or start.upper is None:
            return self.sense
        sense = self.sense.copy()
        sense[self.inequalities] |= ACTIVE * (start.inequality > 0)
        if self.bounds.stop:
            sense[self.bounds] |= ACTIVE * (start.upper > 0)
            sense[self.bounds] |= (ACTIVE + AT_LOWER) * (start.lower > start.upper)
        return sense

    def multipliers(self, start: SampleStart | None) -> Floats | None:
        """Return the multipliers of a start in DAQP's order and signs, or None where unknown."""
        if start is None or start.equality is None or start.inequality is None:
            return None
        if start.lower is None or start.upper is None:
            return None
        bounds = (start.upper - start.lower)[self.bounds]
        found: Floats = np.concatenate([bounds, start.equality, start.inequality])
        return found

    def duals(self, lam: Floats) -> dict[str, Floats]:
        """Translate DAQP's multipliers (..., rows), which are positive at the upper limits."""
        lower = upper = np.zeros((*lam.shape[:-1], self.n))
        if self.bounds.stop:
            upper = np.maximum(lam[..., self.bounds], 0.0)
            lower = upper - lam[..., self.bounds]
        return {
            "equality": lam[..., self.equalities],
            "inequality": np.maximum(lam[..., self.inequalities], 0.0),
            "lower": lower,
            "upper": upper,
        }
