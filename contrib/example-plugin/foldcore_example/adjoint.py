"""An adjoint solver: generalised conjugate residuals on (I - Φᵀ) v = g.

Source: Eisenstat, Elman, Schultz, "Variational iterative methods for nonsymmetric systems of linear
equations", SIAM Journal on Numerical Analysis 20 (1983), 345-357, algorithm GCR(k).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foldcore import (
    FixedPointOperator,
    KrylovAdjoint,
    KrylovCycle,
    KrylovMethod,
    PluginConfig,
    ScaledSystem,
)

from .adjoint_config import ExampleAdjointConfig


class ExampleAdjoint(KrylovAdjoint):
    """GCR with restarts, all samples of a batch at once, none touching another.

    Invariant: the reported residual is measured by a product with the v that is returned.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = ExampleAdjointConfig
    config: ExampleAdjointConfig

    def cycle(self, operator: FixedPointOperator, system: ScaledSystem) -> KrylovMethod:
        return _Cycle(operator, system.tolerance, self.config.restart)


class _Cycle:
    """One cycle: directions whose images under I - Φᵀ are orthonormal, one product each."""

    def __init__(self, operator: FixedPointOperator, tolerance: Tensor, restart: int) -> None:
        self._operator, self._tolerance, self._restart = operator, tolerance, restart

    def __call__(
        self, residual: Tensor, norm: Tensor, active: Tensor, budget: Tensor
    ) -> KrylovCycle:
        correction = torch.zeros_like(residual)
        products = torch.zeros_like(budget)
        broken = torch.zeros_like(active)
        directions: list[Tensor] = []
        images: list[Tensor] = []
        for _ in range(min(self._restart, self._operator.size)):
            working = active & ~broken & (products < budget)
            working = working & (torch.linalg.vector_norm(residual, dim=-1) > self._tolerance)
            if not bool(working.any()):
                break
            direction = torch.where(working[:, None], residual, torch.zeros_like(residual))
            image = direction - self._operator.vjp(direction)
            products = products + working
            length = torch.linalg.vector_norm(image, dim=-1)
            for earlier, its_image in zip(directions, images, strict=True):
                share = (image * its_image).sum(-1, keepdim=True)
                direction, image = direction - share * earlier, image - share * its_image
            left = torch.linalg.vector_norm(image, dim=-1)
            # The image lies in the span of the earlier ones: no step in it lowers the residual.
            useless = left <= torch.finfo(left.dtype).eps * length
            broken = broken | (working & useless)
            scale = torch.where(useless, torch.zeros_like(left), 1 / left)[:, None]
            direction, image = direction * scale, image * scale
            share = (residual * image).sum(-1, keepdim=True)
            correction, residual = correction + share * direction, residual - share * image
            directions.append(direction)
            images.append(image)
        return KrylovCycle(correction, products, broken & (products == 0))
