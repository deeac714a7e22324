"""Features and costs of appendix E.1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .settings import BilinearSettings


@dataclass(frozen=True)
class Dataset:
    """Features (N, features) and costs (c, d) side by side (N, 2n), float64, split in two."""

    train_features: Tensor
    train_costs: Tensor
    test_features: Tensor
    test_costs: Tensor


def target_map(x: Tensor) -> Tensor:
    """Return x cos 2x + 5/2 log|x / (x + 2)| + x² sin 4x, entry by entry.

    Source: appendix E.1, with |·| added: as printed the logarithm is undefined on -2 < x < 0, half
    the range of a centred network. Its pole at x = 0 has probability zero.
    """
    return x * (2 * x).cos() + 2.5 * (x / (x + 2)).abs().log() + x**2 * (4 * x).sin()


def make_dataset(settings: BilinearSettings) -> Dataset:
    """Draw the data, the same for every objective.

    Features are uniform in [-2, 2]. Targets are :func:`target_map` of a random network of two
    layers with tanh after both, weights and biases normal with variance 1/fan-in. One shift and one
    scale, from the training targets, then bring all costs to mean 0 and standard deviation 1: with
    fixed sums of x and y the shift moves the objective by a constant, and the scale is its unit.
    """
    generator = torch.Generator().manual_seed(settings.data_seed)

    def normal(*shape: int, fan_in: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) / math.sqrt(fan_in)

    count, size, width = settings.samples, settings.features, settings.teacher_width
    features = 4 * torch.rand(count, size, generator=generator, dtype=torch.float64) - 2
    hidden = torch.tanh(features @ normal(size, width, fan_in=size) + normal(width, fan_in=size))
    outputs = 2 * settings.n
    out = torch.tanh(hidden @ normal(width, outputs, fan_in=width) + normal(outputs, fan_in=width))
    costs = target_map(out)
    train = count - round(count * settings.test_fraction)
    costs = (costs - costs[:train].mean()) / costs[:train].std()
    return Dataset(features[:train], costs[:train], features[train:], costs[train:])
