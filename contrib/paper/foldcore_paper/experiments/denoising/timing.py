"""Forward and backward times of the denoising layer, all methods in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from ...experiment import Row
from .methods import (
    Denoiser,
    FoldcoreQpthDenoiser,
    FoldedDenoiser,
    QpthDenoiser,
    certify,
    differencing,
)
from .settings import DenoisingSettings
from .signals import Signals
from .training import pretrained

FDPG, MATCHED, QPTH, FOLDCORE_QPTH = "f-fdpg", "f-fdpg-matched", "qpth", "foldcore-qpth"
"""f-FDPG with training's tolerance and with one that leaves qpth's residual; qpth bare and in foldcore."""


def time_layers(settings: DenoisingSettings, training: Signals) -> list[Row]:
    """Return one row a method, operator, λ, batch size and repeat.

    Columns: forward_seconds (without a gradient), recorded_forward_seconds (with what the backward
    pass needs), backward_seconds, and of the first kind's solutions kkt_residual, the largest of the batch.
    """
    rows: list[Row] = []
    for weight in settings.timing.weights:
        operators = {
            "differencing": differencing(),
            "learned": pretrained(settings, weight, training),
        }
        for name, operator in operators.items():
            denoisers: dict[str, Denoiser] = {
                FDPG: FoldedDenoiser(weight, settings.rtol, operator),
                MATCHED: FoldedDenoiser(weight, settings.timing.rtol, operator),
                QPTH: QpthDenoiser(weight, settings.ridge, settings.timing.eps, operator),
                FOLDCORE_QPTH: FoldcoreQpthDenoiser(weight, settings.ridge, operator),
            }
            for size in settings.timing.batch_sizes:
                labels: Row = {"lambda": weight, "operator": name, "batch_size": size}
                batch = training.part(slice(size))
                residuals = _warm_up(denoisers, weight, batch)
                for repeat in range(settings.timing.repeats):
                    for method, denoiser in denoisers.items():
                        times = _time_once(denoiser, batch)
                        row: Row = {"method": method, **labels, "repeat": repeat, **times}
                        rows.append({**row, "kkt_residual": residuals[method]})
    return rows


def _warm_up(denoisers: Mapping[str, Denoiser], weight: float, batch: Signals) -> dict[str, float]:
    """Call each once, untimed, and return the KKT residuals of what they return."""
    residuals = {}
    for method, denoiser in denoisers.items():
        with torch.no_grad():
            x = denoiser(batch.noisy)
        report = certify(weight, denoiser.operator.detach(), batch.noisy, x)
        residuals[method] = float(report.residual.max())
    return residuals


def _time_once(denoiser: Denoiser, batch: Signals) -> Row:
    start = time.perf_counter()
    with torch.no_grad():
        denoiser(batch.noisy)
    forward = time.perf_counter()
    loss = (denoiser(batch.noisy) - batch.target).square().mean()
    recorded = time.perf_counter()
    torch.autograd.grad(loss, denoiser.operator)
    end = time.perf_counter()
    return {
        "forward_seconds": forward - start,
        "recorded_forward_seconds": recorded - forward,
        "backward_seconds": end - recorded,
    }
