"""The networks: a small one for digits, DenseNet for CIFAR; both with bounded logits in float64."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from .settings import CifarSettings, DigitsSettings

PIXELS = 64
CHANNEL_MEAN, CHANNEL_SCALE = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
"""Mean and standard deviation of CIFAR's channels, in units of uint8; those of Berrada et al."""


class BoundedLogits(nn.Module):
    """Any network with logits c = bound·tanh(z / bound), in float64.

    The bound keeps max x / min x of the smooth top-k, and with it the conditioning of its Hessian,
    below exp(2 bound / τ).

    Args:
        body: Images -> z (B, n).
        bound: In units of c.
    """

    def __init__(self, body: nn.Module, bound: float) -> None:
        super().__init__()
        self.body = body
        self.bound = bound

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits c. Shape (B, n)."""
        raw: Tensor = self.body(images)
        return self.bound * torch.tanh(raw.double() / self.bound)


def digits_network(settings: DigitsSettings, classes: int, bound: float, seed: int) -> nn.Module:
    """Return 64 pixels -> hidden ReLU units -> logits; torch's global generator is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(
            nn.Linear(PIXELS, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, classes)
        )
    return BoundedLogits(body, bound)


def cifar_network(settings: CifarSettings, classes: int, bound: float, seed: int) -> nn.Module:
    """Return the DenseNet for uint8 images; torch's global generator is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = DenseNet(settings.depth, settings.growth, classes, bottleneck=settings.bottleneck)
    return BoundedLogits(body, bound)


class DenseNet(nn.Sequential):
    """DenseNet with three dense blocks, for images of 32 x 32 pixels.

    Source: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks" (2017),
    sections 3 and 4: DenseNet-BC with bottleneck layers, else the plain one. He's initialisation.

    Args:
        depth: Number of layers with weights, 3m + 4, or 6m + 4 with bottlenecks.
        growth: Channels that each layer adds.
        classes: Number of classes.
        bottleneck: Whether a 1x1 convolution to 4·growth channels precedes each 3x3 one, and
            transitions halve the channels.
    """

    def __init__(self, depth: int, growth: int, classes: int, *, bottleneck: bool) -> None:
        layers, rest = divmod(depth - 4, 6 if bottleneck else 3)
        if rest or layers < 1:
            raise ValueError(
                f"DenseNet: depth is {depth}; expected {'6m' if bottleneck else '3m'} + 4 with m >= 1."
            )
        channels = 2 * growth if bottleneck else 16
        parts: list[nn.Module] = [_Normalise(), nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for block in range(3):
            for _ in range(layers):
                parts.append(_DenseLayer(channels, growth, bottleneck=bottleneck))
                channels += growth
            if block < 2:
                narrowed = channels // 2 if bottleneck else channels
                parts += [*_activated(channels, narrowed, 1), nn.AvgPool2d(2)]
                channels = narrowed
        parts += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*parts, nn.Linear(channels, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=sqrt(2 / fan))
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)


class _DenseLayer(nn.Module):
    """Channels that come in, and ``growth`` more."""

    def __init__(self, channels: int, growth: int, *, bottleneck: bool) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        if bottleneck:
            parts += _activated(channels, 4 * growth, 1)
            channels = 4 * growth
        self.added = nn.Sequential(*parts, *_activated(channels, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.added(x)], dim=1)


class _Normalise(nn.Module):
    """uint8 -> float32 of mean 0 and standard deviation 1 per channel."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("mean", CHANNEL_MEAN), ("scale", CHANNEL_SCALE)):
            self.register_buffer(name, torch.tensor(value).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.scale


def _activated(channels: int, out: int, width: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, width, padding=width // 2, bias=False)
    return [nn.BatchNorm2d(channels), nn.ReLU(), convolution]
