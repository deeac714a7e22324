"""Train a denoiser, and take its test error as the denoiser that its matrix defines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...experiment import Row
from .methods import Denoiser, FoldedDenoiser
from .settings import DenoisingSettings
from .signals import Signals


def mean_squared_error(
    weight: float, operator: Tensor | None, signals: Signals, rtol: float = 1e-8
) -> float:
    """Return the error of x*(D) by f-FDPG's forward pass, whichever method trained D."""
    denoiser = FoldedDenoiser(weight, rtol, operator)
    with torch.no_grad():
        return float((denoiser(signals.noisy) - signals.target).square().mean())


def batches(signals: Signals, settings: DenoisingSettings, epoch: int) -> Iterator[Signals]:
    """Yield an epoch's batches: the same for every method and λ."""
    generator = torch.Generator().manual_seed(1_000_003 * (settings.seed + 1) + epoch)
    order = torch.randperm(len(signals), generator=generator)
    for first in range(0, len(signals), settings.batch_size):
        yield signals.part(order[first : first + settings.batch_size])


def steps(
    denoiser: Denoiser, optimizer: torch.optim.Optimizer, data: Iterator[Signals]
) -> Iterator[float]:
    """Take one step of the optimiser a batch; yield its loss before the step."""
    for batch in data:
        optimizer.zero_grad()
        loss = (denoiser(batch.noisy) - batch.target).square().mean()
        loss.backward()
        optimizer.step()
        yield loss.item()


def train(
    settings: DenoisingSettings,
    denoiser: Denoiser,
    weight: float,
    epochs: int,
    data: tuple[Signals, Signals],
    checkpoint: Path,
) -> list[Row]:
    """Train with Adam and return the errors along the way; resume from the checkpoint if there is one.

    Args:
        settings: Of the run.
        denoiser: With D at its start.
        weight: λ.
        epochs: How many.
        data: Training and test signals.
        checkpoint: Written after each evaluation.

    Returns:
        Rows of epoch, train_mse (mean loss since the row before), test_mse, operator_norm_squared
        (‖D‖²) and training_seconds (of the steps so far).
    """
    training, test = data
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=settings.learning_rate)
    per_epoch = -(-len(training) // settings.batch_size)
    marks = {
        per_epoch * (part + 1) // settings.evaluations_per_epoch
        for part in range(settings.evaluations_per_epoch)
    }
    rows: list[Row] = []
    done, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        denoiser.load_state_dict(saved["denoiser"])
        optimizer.load_state_dict(saved["optimizer"])
        rows, done, seconds = saved["rows"], saved["done"], saved["seconds"]
    else:
        rows.append(_observe(denoiser, weight, test, epoch=0.0, losses=[], seconds=0.0))
    while done < epochs * per_epoch:
        epoch, first = divmod(done, per_epoch)
        left = list(batches(training, settings, epoch))[first:]
        losses: list[float] = []
        start = time.perf_counter()
        for loss in steps(denoiser, optimizer, iter(left)):
            done += 1
            losses.append(loss)
            if done - epoch * per_epoch in marks:
                seconds += time.perf_counter() - start
                reached = done / per_epoch
                rows.append(_observe(denoiser, weight, test, reached, losses, seconds))
                state = {"denoiser": denoiser.state_dict(), "optimizer": optimizer.state_dict()}
                _save({**state, "rows": rows, "done": done, "seconds": seconds}, checkpoint)
                losses, start = [], time.perf_counter()
    return rows


def pretrained(settings: DenoisingSettings, weight: float, training: Signals) -> Tensor:
    """Return D after the settings' ``pretraining_steps`` of f-FDPG. Shape (99, 100)."""
    denoiser = FoldedDenoiser(weight, settings.rtol)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=settings.learning_rate)
    left, epoch = settings.pretraining_steps, 0
    while left > 0:
        some = list(batches(training, settings, epoch))[:left]
        left, epoch = left - len(list(steps(denoiser, optimizer, iter(some)))), epoch + 1
    return denoiser.operator.detach().clone()


def _observe(
    denoiser: Denoiser,
    weight: float,
    test: Signals,
    epoch: float,
    losses: list[float],
    seconds: float,
) -> Row:
    operator = denoiser.operator.detach()
    return {
        "epoch": epoch,
        "train_mse": sum(losses) / len(losses) if losses else None,
        "test_mse": mean_squared_error(weight, operator, test),
        "operator_norm_squared": float(torch.linalg.matrix_norm(operator, 2)) ** 2,
        "training_seconds": seconds,
    }


def _save(content: dict[str, object], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    os.replace(partial, path)
