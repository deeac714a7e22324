"""The group lasso term: a sum of Euclidean norms over disjoint groups of variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ProblemError
from .base import Data, FieldSpec, Regularizer, Specs, as_column
from .terms import check_nonnegative

Groups = int | Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class GroupL2(Regularizer):
    """Σ_g weight_g ‖x_g‖₂ over disjoint groups g. weight >= 0 a number or one for each group.

    Args:
        weight: A number or (m,) for m groups.
        groups: Index tuples, disjoint; variables in none of them are left free. Or a number: the
            variables are cut into consecutive groups of that size.
    """

    weight: Data
    groups: Groups
    specs: ClassVar[Specs] = {"weight": FieldSpec(("m",), number=True)}

    def check(self, n: int) -> None:
        members = [index for group in self._groups(n) for index in group]
        outside = [index for index in members if not 0 <= index < n]
        if outside or len(set(members)) < len(members):
            wrong = f"index {outside[0]} lies outside" if outside else "groups overlap in"
            raise ProblemError(
                f"GroupL2: {wrong} 0..{n - 1}; expected disjoint groups of the n = {n} variables."
            )
        super().check(n)
        check_nonnegative(self, "weight")

    def value(self, x: Tensor) -> Tensor:
        norms = self._norms(x, self._membership(x))
        return (self._tensor("weight") * norms).sum(-1)

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Shrink the norm of each group by step·weight: y_g·[1 - step·weight_g/‖y_g‖]₊.

        Source: Beck, First-Order Methods in Optimization (2017), example 6.19 and theorem 6.6.
        """
        membership = self._membership(y)
        norms = self._norms(y, membership)
        threshold = (self._tensor("weight") * as_column(step)).expand(norms.shape)
        ratio = threshold / torch.where(norms > 0, norms, torch.ones_like(norms))
        factor = torch.where(norms >= threshold, 1 - ratio, torch.zeros_like(norms))
        free = torch.ones_like(factor[..., :1])
        return y * torch.cat([factor, free], dim=-1)[..., membership]

    def _groups(self, n: int) -> list[Sequence[int]]:
        if not isinstance(self.groups, int):
            return list(self.groups)
        size = self.groups
        if size < 1 or n % size:
            raise ProblemError(
                f"GroupL2: groups of size {size} do not divide n = {n} variables evenly."
            )
        return [range(start, start + size) for start in range(0, n, size)]

    def _sizes(self, n: int) -> dict[str, int]:
        return {"n": n, "m": len(self._groups(n))}

    def _membership(self, x: Tensor) -> Tensor:
        """Return the group of each variable, the number of groups for those in none. Shape (n,)."""
        groups = self._groups(x.shape[-1])
        owner = [len(groups)] * x.shape[-1]
        for number, group in enumerate(groups):
            for index in group:
                owner[index] = number
        return torch.tensor(owner, device=x.device)

    def _norms(self, x: Tensor, membership: Tensor) -> Tensor:
        """Return ‖x_g‖₂ per group, (B, m), with gradient 0 where it is 0."""
        count = len(self._groups(x.shape[-1]))
        squares = x.new_zeros(*x.shape[:-1], count + 1).index_add(-1, membership, x * x)
        squares = squares[..., :count]
        positive = squares > 0
        root = torch.where(positive, squares, torch.ones_like(squares)).sqrt()
        return torch.where(positive, root, torch.zeros_like(root))
