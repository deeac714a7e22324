"""The 1,797 handwritten digits of scikit-learn, with noisy training labels and clean test labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import Tensor

CLASSES = 10
GROUP_SIZE = 5
"""The two coarse groups are {0, ..., 4} and {5, ..., 9}."""
TEST_SIZE = 360
_LARGEST_PIXEL = 16.0


@dataclass(frozen=True)
class Digits:
    """Images (N, 64) in [0, 1], float32; labels (N,) in 0..9, int64.

    Attributes:
        train_labels: What the networks are trained with: the noisy labels.
        train_clean_labels: The true ones; no network sees them.
        test_labels: True labels, disjoint from the training samples.
    """

    train_images: Tensor
    train_labels: Tensor
    train_clean_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits(seed: int, *, noise: float = 0.3, train_size: int | None = None) -> Digits:
    """Split the digits (every class in proportion) and resample the training labels.

    Args:
        seed: Decides the split and the noise.
        noise: Probability that a training label is drawn again.
        train_size: Number of training samples; None for all 1,437.
    """
    bunch = datasets.load_digits()
    images = torch.as_tensor(bunch.data / _LARGEST_PIXEL, dtype=torch.float32)
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    train, test = (
        torch.as_tensor(indices)
        for indices in train_test_split(
            range(len(labels)),
            train_size=train_size,
            test_size=TEST_SIZE,
            stratify=bunch.target,
            random_state=seed,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    return Digits(
        train_images=images[train],
        train_labels=resample_within_groups(labels[train], noise, generator),
        train_clean_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )


def resample_within_groups(labels: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Draw each label again with probability ``noise``, uniformly among the five of its group.

    The drawn label may be the true one, so that a share ``noise``·4/5 of the labels is wrong.
    Source: Berrada, Zisserman, Kumar, "Smooth Loss Functions for Deep Top-k Classification"
    (2018), section 5.1, where the groups are the superclasses of CIFAR-100.
    """
    again = torch.rand(labels.shape, generator=generator) < noise
    within = torch.randint(GROUP_SIZE, labels.shape, generator=generator)
    return torch.where(again, labels - labels % GROUP_SIZE + within, labels)
