"""Warm starts that belong to samples of a data set, not to places in a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError
from ..solution import Duals, Solution, Status
from .layer import Fold

_DUALS = ("equality", "inequality", "lower", "upper")


@dataclass(frozen=True)
class _Entry:
    primal: Tensor
    duals: tuple[Tensor, ...] | None


class WarmStarts:
    """Earlier solutions by sample key, so that a shuffled epoch starts where the last one ended.

    Samples without an earlier solution, and those that failed, start cold. A warm start changes how
    fast a solver arrives and, within its tolerance, where; never whether the result is certified.

    Args:
        capacity: Largest number of samples kept, the least recently used go first; None keeps all.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def solve(self, layer: Fold, keys: Sequence[Hashable], **params: Tensor) -> Solution:
        """Solve a batch from the earlier solutions of its samples, and remember the new ones.

        Args:
            layer: The layer; one ``WarmStarts`` serves one layer.
            keys: One per sample, such as its index in the data set.
            **params: As for a call of the layer; at least one is batched.

        Raises:
            ShapeError: If the number of keys is not the batch size.
        """
        solution = layer.solve(warm_start=self.start(keys), **params)
        if solution.primal.ndim != 2 or solution.primal.shape[0] != len(keys):
            raise ShapeError(
                f"WarmStarts: {len(keys)} keys for a primal of shape {tuple(solution.primal.shape)}; "
                f"give one key per sample of a batch."
            )
        self.remember(keys, solution)
        return solution

    def start(self, keys: Sequence[Hashable]) -> Solution | None:
        """Return a warm start for these samples, NaN in the rows of unknown ones; None if all are."""
        known = [self._entries.get(key) for key in keys]
        example = next((entry for entry in known if entry is not None), None)
        if example is None:
            return None
        primal = _stacked([None if e is None else e.primal for e in known], example.primal)
        duals = None
        if example.duals is not None:
            duals = Duals(
                *(
                    _stacked(
                        [None if e is None or e.duals is None else e.duals[i] for e in known], like
                    )
                    for i, like in enumerate(example.duals)
                )
            )
        return Solution(primal, (Status.OPTIMAL,) * len(keys), duals)

    def remember(self, keys: Sequence[Hashable], solution: Solution) -> None:
        """Keep the good samples of a batched solution under their keys."""
        primal = solution.primal.detach().clone()
        parts = None
        if solution.duals is not None:
            parts = [getattr(solution.duals, name).detach().clone() for name in _DUALS]
        for i, key in enumerate(keys):
            if not solution.status[i].ok:
                continue
            row = None if parts is None else tuple(part[i] for part in parts)
            self._entries[key] = _Entry(primal[i], row)
            self._entries.move_to_end(key)
        while self._capacity is not None and len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


def _stacked(rows: Sequence[Tensor | None], like: Tensor) -> Tensor:
    unknown = torch.full_like(like, float("nan"))
    return torch.stack([unknown if row is None else row for row in rows])
