"""Nonsmooth terms of the objective: their values and proximal operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ProblemError, UnsupportedError
from ..linalg import matvec
from ..param import Param
from .base import Data, FieldSpec, Regularizer, Specs, expanded


@dataclass(frozen=True, eq=False)
class L1(Regularizer):
    """weight·‖operator x‖₁. weight >= 0 a number or (m,); operator (m, n) or None for the identity.

    Its dual form is the box ‖w‖∞ <= weight over the operator's image: weight·|t| = max wᵀt.
    """

    weight: Data
    operator: Tensor | Param | None = None
    specs: ClassVar[Specs] = {
        "weight": FieldSpec(("m",), number=True),
        "operator": FieldSpec(("m", "n"), optional=True),
    }

    def check(self, n: int) -> None:
        super().check(n)
        if isinstance(self.weight, Tensor) and bool((self.weight < 0).any()):
            raise ProblemError("L1: weight has negative entries, which makes the term concave.")

    def image(self, x: Tensor) -> Tensor:
        """Return operator x. Shapes (B, n) -> (B, m)."""
        operator = self._optional("operator")
        return x if operator is None else matvec(operator, x)

    def dual_bound(self) -> Tensor:
        """Return the half-width of the dual box: (), (m,), (B, 1) or (B, m)."""
        return self._tensor("weight")

    def value(self, x: Tensor) -> Tensor:
        return (self._tensor("weight") * self.image(x).abs()).sum(-1)

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Soft-threshold y by step·weight.

        Source: Beck, First-Order Methods in Optimization (2017), example 6.8.

        Raises:
            UnsupportedError: If there is an operator.
        """
        if self.operator is not None:
            raise UnsupportedError(
                "L1: weight·‖operator x‖₁ has no proximal operator in closed form. Use a dual "
                "proximal-gradient rule, which needs only the dual box ‖w‖∞ <= weight of its image."
            )
        column = step.unsqueeze(-1) if isinstance(step, Tensor) and step.ndim else step
        threshold = self._tensor("weight") * column
        shrunk = torch.where(y < -threshold, y + threshold, torch.zeros_like(y))
        return torch.where(y > threshold, y - threshold, shrunk)

    def absolute_terms(self, n: int) -> tuple[Tensor, Tensor]:
        weight, operator = self._tensor("weight"), self._optional("operator")
        if operator is None:
            operator = torch.eye(n, dtype=weight.dtype, device=weight.device)
        return operator, expanded(weight, int(operator.shape[-2]))
