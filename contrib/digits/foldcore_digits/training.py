"""Train one network by Adam and evaluate it after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from .data import Digits
from .losses import Loss


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        epochs: Passes over the training samples (count).
        batch_size: Samples per step (count).
        learning_rate: Adam's step size.
        k: Top-k accuracy counts a label among the k largest logits.
        seed: Decides the order of the samples.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    k: int = 2
    seed: int = 0

    def steps(self, samples: int) -> int:
        """Return the number of steps that training on so many samples takes."""
        return self.epochs * ceil(samples / self.batch_size)


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch ended with.

    Attributes:
        loss: Mean training loss over the epoch's steps, noisy labels.
        top_1, top_k: Accuracies on the test samples, clean labels, in [0, 1].
    """

    loss: float
    top_1: float
    top_k: float


def train(
    network: nn.Module,
    loss: Loss,
    digits: Digits,
    config: TrainingConfig,
    on_step: Callable[[], None] = lambda: None,
) -> list[EpochRecord]:
    """Train ``network`` in place; return one record per epoch.

    Args:
        network: Images (B, 64) -> logits (B, 10).
        loss: What is minimised, on the noisy training labels.
        digits: The samples.
        config: How to train.
        on_step: Called after every step, for a progress bar.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    generator = torch.Generator().manual_seed(config.seed)
    samples = len(digits.train_labels)
    records = []
    for _ in range(config.epochs):
        total = 0.0
        order = torch.randperm(samples, generator=generator)
        for batch in torch.split(order, config.batch_size):
            value = loss(network(digits.train_images[batch]), digits.train_labels[batch])
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += value.item() * len(batch)
            on_step()
        top_1, top_k = evaluate(network, digits, config.k)
        records.append(EpochRecord(loss=total / samples, top_1=top_1, top_k=top_k))
    return records


def evaluate(network: nn.Module, digits: Digits, k: int) -> tuple[float, float]:
    """Return top-1 and top-k accuracy on the clean test labels.

    The smooth top-k is increasing in the logits, so that these alone decide, whatever the loss was.
    """
    with torch.no_grad():
        logits = network(digits.test_images)
    hits = logits.topk(k, dim=-1).indices == digits.test_labels[:, None]
    return _mean(hits[:, 0]), _mean(hits.any(-1))


def _mean(hits: Tensor) -> float:
    return float(hits.double().mean())
