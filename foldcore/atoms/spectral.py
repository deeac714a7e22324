"""The nuclear norm and its proximal operator, singular value thresholding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ProblemError
from .base import Data, FieldSpec, Regularizer, Specs
from .terms import check_nonnegative


@dataclass(frozen=True, eq=False)
class NuclearNorm(Regularizer):
    """weight·Σ of the singular values of x reshaped, row by row, to a matrix. weight >= 0 a number."""

    weight: Data
    shape: tuple[int, int]
    specs: ClassVar[Specs] = {"weight": FieldSpec(())}

    def check(self, n: int) -> None:
        super().check(n)
        check_nonnegative(self, "weight")
        if len(self.shape) != 2 or self.shape[0] * self.shape[1] != n:
            raise ProblemError(f"NuclearNorm: shape {self.shape} does not hold n = {n} variables.")

    def value(self, x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.matrix_norm(self._matrix(x), "nuc")
        return self._tensor("weight") * norm

    def prox(self, y: Tensor, step: float | Tensor) -> Tensor:
        """Soft-threshold the singular values by step·weight.

        The derivative is exact at repeated and at zero singular values too, where that of an SVD does
        not exist; it exists wherever no singular value equals the threshold.

        Source: Parikh and Boyd, Proximal Algorithms (2014), section 6.7.3. Derivative: Löwner's divided
        differences for singular values, Ding, Sun, Sun, Toh, Spectral operators of matrices (2018).
        """
        threshold = (self._tensor("weight") * step).expand(y.shape[0])
        return shrink_singular_values(self._matrix(y), threshold).flatten(-2)

    def _matrix(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], *self.shape)


def shrink_singular_values(matrix: Tensor, threshold: Tensor) -> Tensor:
    """Return U diag([σ - threshold]₊) Vᵀ. Shapes (B, p, q), (B,) -> (B, p, q).

    Differentiable once; a second derivative comes out as NaN, never as a wrong number.
    """
    result: Tensor = _Shrink.apply(matrix, threshold)[0]  # type: ignore[no-untyped-call]
    return result


class _Shrink(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        kept = (values - threshold.unsqueeze(-1)).clamp(min=0)
        return (left * kept.unsqueeze(-2)) @ right, left, values, right

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        _, left, values, right = output
        ctx.mark_non_differentiable(left, values, right)
        ctx.save_for_backward(*inputs, left, values, right)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        matrix, threshold, left, values, right = ctx.saved_tensors
        product: Tensor = _Derivative.apply(  # type: ignore[no-untyped-call]
            cotangent, matrix, threshold, left, values, right
        )
        above = (values >= threshold.unsqueeze(-1)).to(values.dtype)
        slope = -((left * above.unsqueeze(-2)) @ right * cotangent).sum((-2, -1))
        return product, slope


class _Derivative(torch.autograd.Function):
    """The symmetric map dX of singular value thresholding at a matrix, linear in its first argument."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        tangent: Tensor,
        matrix: Tensor,
        threshold: Tensor,
        left: Tensor,
        values: Tensor,
        right: Tensor,
    ) -> Tensor:
        return _derivative(tangent, threshold, left, values, right)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        matrix, threshold, *factors = ctx.saved_tensors
        product: Tensor = _Derivative.apply(cotangent, matrix, threshold, *factors)  # type: ignore[no-untyped-call]
        # The map is not differentiated with respect to the matrix it is taken at.
        unknown = torch.full_like(matrix, float("nan"))
        return product, unknown, torch.full_like(threshold, float("nan")), None, None, None


def _derivative(
    tangent: Tensor, threshold: Tensor, left: Tensor, values: Tensor, right: Tensor
) -> Tensor:
    limit = threshold.unsqueeze(-1)
    above = values >= limit
    kept = torch.where(above, values - limit, torch.zeros_like(values))
    row, column = values.unsqueeze(-1), values.unsqueeze(-2)
    kept_row, kept_column = kept.unsqueeze(-1), kept.unsqueeze(-2)
    both = above.unsqueeze(-1) & above.unsqueeze(-2)
    one = above.unsqueeze(-1) ^ above.unsqueeze(-2)
    # Only pairs on different sides of the threshold divide by their gap: it cannot vanish there.
    gap = torch.where(one, row - column, torch.ones_like(row - column))
    difference = torch.where(one, (kept_row - kept_column) / gap, both.to(values.dtype))
    total = row + column
    mean = (kept_row + kept_column) / torch.where(total > 0, total, torch.ones_like(total))
    mean = torch.where(total > 0, mean, both.to(values.dtype))
    ratio = kept / torch.where(values > 0, values, torch.ones_like(values))
    ratio = torch.where(values > 0, ratio, above.to(values.dtype))

    core = left.mT @ tangent @ right.mT
    inside = difference * (core + core.mT) / 2 + mean * (core - core.mT) / 2
    along_left, along_right = left.mT @ tangent, tangent @ right.mT
    beside_right = ratio.unsqueeze(-1) * (along_left - core @ right)
    beside_left = (along_right - left @ core) * ratio.unsqueeze(-2)
    return left @ (inside @ right + beside_right) + beside_left @ right
