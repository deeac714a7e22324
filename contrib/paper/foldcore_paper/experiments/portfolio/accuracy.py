"""How far each layer's solution and gradient are from the exact ones, in the natural units of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from ...experiment import Row
from .data import Market
from .layers import PortfolioLayer
from .methods import make_layer
from .observe import observed
from .reference import solve_exactly
from .settings import PortfolioSettings
from .training import make_network

PRICES, UNTRAINED = "true prices", "first predictions"


def measure_accuracy(
    settings: PortfolioSettings, methods: tuple[str, ...], market: Market, seed: int
) -> list[Row]:
    """Measure each method on true prices and on what an untrained network predicts.

    Each row is one sample: relative 2-norm errors of x* and of the gradient of <x*, w>, w a random
    cotangent of length 1. ``vertex`` marks samples whose exact gradient is zero; their gradient's error is
    relative to that of the cotangent. Samples that the layer failed have NaN errors.
    """
    count = settings.accuracy.samples
    network = make_network(
        market.test_features.shape[-1], settings.hidden, len(market.covariance), seed
    )
    with torch.no_grad():
        predicted = network(market.test_features[:count])
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(count, len(market.covariance), generator=generator, dtype=torch.float64)
    cotangent /= cotangent.norm(dim=-1, keepdim=True)
    rows: list[Row] = []
    for kind, prices in ((PRICES, market.test_prices[:count]), (UNTRAINED, predicted)):
        exact = solve_exactly(prices, market.covariance, market.gamma)
        gradient = exact.gradient(cotangent)
        size = torch.where(exact.free_directions > 0, gradient.norm(dim=-1), 1.0)
        for method in methods:
            layer = make_layer(method, market)
            x, slope, doubted = _one_by_one(layer, prices, cotangent)
            error = (x - exact.weights).norm(dim=-1) / exact.weights.norm(dim=-1)
            slope_error = (slope - gradient).norm(dim=-1) / size
            for i in range(count):
                rows.append(
                    {
                        "method": method,
                        "instances": kind,
                        "sample": i,
                        "x_error": float(error[i]),
                        "gradient_error": float(slope_error[i]),
                        "vertex": bool(exact.free_directions[i] <= 0),
                        "failed": bool(error[i].isnan()),
                        "doubted": doubted[i],
                    }
                )
    return rows


def _one_by_one(
    layer: PortfolioLayer, prices: Tensor, cotangent: Tensor
) -> tuple[Tensor, Tensor, list[bool]]:
    """Solve and differentiate each sample by itself, so that a layer that raises loses no other."""
    x, gradient = torch.full_like(prices, float("nan")), torch.full_like(prices, float("nan"))
    doubted: list[bool] = []
    for i in range(len(prices)):
        price = prices[i : i + 1].clone().requires_grad_()
        with observed():
            answer = layer(price)
            if bool(answer.solved.all()):
                (slope,) = torch.autograd.grad((answer.weights * cotangent[i]).sum(), price)
                x[i], gradient[i] = answer.weights[0].detach(), slope[0]
        doubted.append(answer.doubted > 0)
    return x, gradient, doubted
