"""Separable terms of the objective: their values and proximal operators."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ProblemError, UnsupportedError
from ..numerics.products import matvec
from ..param import Param
from .base import Data, FieldSpec, Regularizer, Specs, as_column, expanded


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
        check_nonnegative(self, "weight")

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
        return soft_threshold(y, self._tensor("weight") * as_column(step))

    def dual_prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Project y on the dual box ‖y‖∞ <= weight, whatever the step."""
        bound = self._tensor("weight")
        return torch.where(y > bound, bound, torch.where(y < -bound, -bound, y))

    def split(self) -> tuple[Tensor | None, Regularizer]:
        return self._optional("operator"), replace(self, operator=None)

    @property
    def has_prox(self) -> bool:
        return self.operator is None

    @property
    def has_image_prox(self) -> bool:
        return True

    def absolute_terms(self, n: int) -> tuple[Tensor, Tensor]:
        weight, operator = self._tensor("weight"), self._optional("operator")
        if operator is None:
            operator = torch.eye(n, dtype=weight.dtype, device=weight.device)
        return operator, expanded(weight, int(operator.shape[-2]))


@dataclass(frozen=True, eq=False)
class ElasticNet(Regularizer):
    """Σ l1_i |x_i| + ½ Σ l2_i x_i². l1, l2 >= 0, numbers or (n,)."""

    l1: Data
    l2: Data
    specs: ClassVar[Specs] = {
        "l1": FieldSpec(("n",), number=True),
        "l2": FieldSpec(("n",), number=True),
    }

    def check(self, n: int) -> None:
        super().check(n)
        check_nonnegative(self, "l1")
        check_nonnegative(self, "l2")

    def value(self, x: Tensor) -> Tensor:
        return (self._tensor("l1") * x.abs() + self._tensor("l2") * x * x / 2).sum(-1)

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Soft-threshold y by step·l1, then divide by 1 + step·l2.

        Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.5.3.
        """
        column = as_column(step)
        shrunk = soft_threshold(y, self._tensor("l1") * column)
        return shrunk / (1 + self._tensor("l2") * column)


@dataclass(frozen=True, eq=False)
class Huber(Regularizer):
    """Σ weight_i h(x_i), h(t) = ½t² for |t| <= delta, delta·(|t| - ½delta) beyond.

    weight >= 0 and delta > 0, numbers or (n,).
    """

    weight: Data
    delta: Data = 1.0
    specs: ClassVar[Specs] = {
        "weight": FieldSpec(("n",), number=True),
        "delta": FieldSpec(("n",), number=True),
    }

    def check(self, n: int) -> None:
        super().check(n)
        check_nonnegative(self, "weight")
        if isinstance(self.delta, Tensor) and bool((self.delta <= 0).any()):
            raise ProblemError("Huber: delta has entries <= 0, expected positive ones.")

    def value(self, x: Tensor) -> Tensor:
        delta, size = self._tensor("delta"), x.abs()
        inner, outer = x * x / 2, delta * (size - delta / 2)
        return (self._tensor("weight") * torch.where(size <= delta, inner, outer)).sum(-1)

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Shrink y/(1 + t) near 0, y - t·delta·sign(y) beyond, with t = step·weight.

        Source: Beck, First-Order Methods in Optimization (2017), example 6.66 and theorem 6.63.
        """
        delta, t = self._tensor("delta"), self._tensor("weight") * as_column(step)
        return torch.where(y.abs() <= delta * (1 + t), y / (1 + t), y - t * delta * y.sign())


def soft_threshold(y: Tensor, threshold: Tensor) -> Tensor:
    """Return [|y| - threshold]₊·sign(y), differentiable in both."""
    shrunk = torch.where(y < -threshold, y + threshold, torch.zeros_like(y))
    return torch.where(y > threshold, y - threshold, shrunk)


def check_nonnegative(term: Regularizer, field: str) -> None:
    """Raise ProblemError if a constant field has negative entries."""
    value = getattr(term, field)
    if isinstance(value, Tensor) and bool((value < 0).any()):
        raise ProblemError(
            f"{type(term).__name__}: {field} has negative entries, which makes the term concave."
        )
