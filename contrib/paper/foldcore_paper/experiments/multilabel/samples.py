"""Images and labels: the same form for digits and CIFAR-100."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from foldcore_digits import load_digits
from torch import Tensor

from .settings import DigitsSettings

DIGITS = 10


@dataclass(frozen=True)
class Samples:
    """Noisy training labels, clean labels to test with.

    Attributes:
        images: Training images, (N, 64) float32 in [0, 1] or (N, 3, 32, 32) uint8.
        labels: Training labels with noise, (N,) int64.
        tests: Name of a test set -> its images and true labels.
        classes: Number of classes.
    """

    images: Tensor
    labels: Tensor
    tests: Mapping[str, tuple[Tensor, Tensor]]
    classes: int


def digits_samples(settings: DigitsSettings, seed: int, noise: float) -> Samples:
    """Return scikit-learn's digits: 360 to test, noise within {0..4} and within {5..9}."""
    digits = load_digits(seed, noise=noise, train_size=settings.train_size)
    tests = {"test": (digits.test_images, digits.test_labels)}
    return Samples(digits.train_images, digits.train_labels, tests, DIGITS)


def shifted_and_mirrored(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Shift each image by up to ``padding`` pixels in both directions, black coming in, and mirror half.

    Source: the augmentation of CIFAR by Huang et al., "Densely Connected Convolutional Networks"
    (2017), section 4.1. Shape (B, C, H, W).
    """
    batch, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    corner = torch.randint(2 * padding + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(batch, width)
    columns = corner[1] + torch.where(mirrored, width - 1 - columns, columns)
    rows = corner[0] + torch.arange(height)
    sample = torch.arange(batch)[:, None, None, None]
    channel = torch.arange(channels)[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
