"""Train one network through one backward pass, epoch by epoch, resumable."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from foldcore_digits import TopKLoss
from torch import Tensor, nn

from ...experiment import Row
from .agreement import Pass, relative_difference
from .samples import Samples, shifted_and_mirrored
from .settings import TrainingSettings
from .top_k import TopK

EVALUATED_AT_ONCE = 512
CHECKED_SAMPLES = 64


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        network: Images -> bounded logits, float64.
        samples: The data.
        top_k: The layer with the backward pass under test.
        exact: The same layer with the exact derivative.
        settings: How to train.
        k: Top-k accuracy counts a label among the k largest logits.
        seed: Decides the order of the samples and their augmentation.
        augment: Whether training images are shifted and mirrored.
        device: torch device of the network. The top-k layer works on the CPU.
    """

    network: nn.Module
    samples: Samples
    top_k: TopK
    exact: TopK
    settings: TrainingSettings
    k: int
    seed: int
    augment: bool
    device: str


class Training:
    """The training of one network.

    Invariant: everything that decides how it goes on is in :meth:`state`, so that a training which
    is saved and resumed ends as one that is not interrupted, bitwise on one kind of machine.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._network = task.network.to(task.device)
        settings = task.settings
        self._optimiser = torch.optim.SGD(
            self._network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self._generator = torch.Generator().manual_seed(task.seed)
        self._loss = TopKLoss(task.top_k)
        self.rows: list[Row] = []

    def state(self) -> dict[str, Any]:
        """Return weights, momentum, the generator's state and the finished epochs' rows."""
        return {
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "generator": self._generator.get_state(),
            "rows": self.rows,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier :meth:`state`."""
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._generator.set_state(state["generator"])
        self.rows = list(state["rows"])

    def run_epoch(self) -> None:
        """Train for one epoch and evaluate."""
        started = time.perf_counter()
        loss = self._train()
        seconds = time.perf_counter() - started
        samples = self._task.samples
        row: Row = {"epoch": len(self.rows) + 1, "loss": loss, "epoch_seconds": seconds}
        row |= self._accuracies("train", samples.images, samples.labels)
        for name, (images, labels) in samples.tests.items():
            row |= self._accuracies(name, images, labels)
        self.rows.append({**row, "gradient_difference": self._gradient_difference()})

    def _train(self) -> float:
        task, total = self._task, 0.0
        images, labels = task.samples.images, task.samples.labels
        self._network.train()
        order = torch.randperm(len(labels), generator=self._generator)
        for batch in torch.split(order, task.settings.batch_size):
            inputs = images[batch]
            if task.augment:
                inputs = shifted_and_mirrored(inputs, self._generator)
            value = self._loss(self._logits(inputs), labels[batch])
            self._optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            total += value.item() * len(batch)
        return total / len(labels)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self._network(images.to(self._task.device))
        return logits.cpu()

    def _evaluated(self, images: Tensor) -> Tensor:
        self._network.eval()
        parts = torch.split(images, EVALUATED_AT_ONCE)
        with torch.no_grad():
            return torch.cat([self._logits(part) for part in parts])

    def _accuracies(self, name: str, images: Tensor, labels: Tensor) -> Row:
        """The smooth top-k increases with the logits, so that these decide."""
        hits = self._evaluated(images).topk(self._task.k, dim=-1).indices == labels[:, None]
        return {
            f"{name}_top_1_percent": _percent(hits[:, 0]),
            f"{name}_top_k_percent": _percent(hits.any(-1)),
        }

    def _gradient_difference(self) -> float:
        """Largest relative difference to the exact gradient, at the network's own logits."""
        c = self._evaluated(self._task.samples.images[:CHECKED_SAMPLES])
        generator = torch.Generator().manual_seed(self._task.seed)
        cotangent = torch.randn(c.shape, generator=generator, dtype=c.dtype)
        found, exact = (
            Pass(top_k, c, cotangent).gradient for top_k in (self._task.top_k, self._task.exact)
        )
        return float(relative_difference(found, exact).max())


def train(task: Task, checkpoint: Path) -> list[Row]:
    """Train, saving after every epoch, and return one row an epoch.

    Args:
        task: What to train.
        checkpoint: File to resume from where it exists, and to save to.
    """
    training = Training(task)
    if checkpoint.exists():
        training.restore(torch.load(checkpoint, weights_only=True))
    # cuDNN's fastest kernels add in an order that varies from run to run.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        while len(training.rows) < task.settings.epochs:
            training.run_epoch()
            _save(training.state(), checkpoint)
    return training.rows


def _save(state: dict[str, Any], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())
