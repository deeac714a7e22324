"""The experiment: what its cells are, what each does, and what is told of the results."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, cast

import pandas as pd

from ...errors import PaperError
from ...experiment import Cell, Experiment, Row, Workspace
from .agreement import agreement
from .cifar import cifar_samples
from .figure import draw
from .methods import differentiable_top_k
from .networks import cifar_network, digits_network
from .samples import digits_samples
from .settings import CifarSettings, DigitsSettings, Method, MultilabelSettings
from .tables import summarise
from .top_k import TopK, black_box
from .training import Task, train

AGREEMENT, TRAINING = "agreement", "training"
DIGITS, CIFAR = "digits", "cifar-100"


class MultilabelExperiment(Experiment[MultilabelSettings]):
    """f-PGDa, f-SQP and cvxpylayers' backward pass behind one forward pass."""

    name: ClassVar[str] = "multilabel"
    title: ClassVar[str] = "Smooth top-k classification by f-PGDa, f-SQP and cvxpylayers"
    settings_class = MultilabelSettings

    def cells(self, settings: MultilabelSettings) -> list[Cell]:
        return self.cells_for(settings, None)

    def cells_for(self, settings: MultilabelSettings, data: Path | None) -> list[Cell]:
        """Return the cells: training is on CIFAR-100 if the user names its folder, else on digits."""
        compared = [
            Cell({"part": AGREEMENT, "classes": n, "k": k}) for n, k in settings.agreement.problems
        ]
        name, training = (DIGITS, settings.digits) if data is None else (CIFAR, settings.cifar)
        trained = [
            Cell({"part": TRAINING, "data": name, "k": k, "seed": seed, "method": method})
            for k in training.k
            for seed in training.seeds
            for method in settings.methods
        ]
        return [*compared, *trained]

    def run(self, settings: MultilabelSettings, cell: Cell, workspace: Workspace) -> list[Row]:
        k = cast(int, cell.labels["k"])
        if cell.labels["part"] == AGREEMENT:
            return agreement(settings, cast(int, cell.labels["classes"]), k)
        seed, method = cast(int, cell.labels["seed"]), cast(Method, cell.labels["method"])
        if cell.labels["data"] == DIGITS:
            task = _digits_task(settings, k, seed, method, workspace)
        else:
            task = _cifar_task(settings, k, seed, method, workspace)
        return train(task, workspace.checkpoint)

    def draw(self, results: pd.DataFrame, folder: Path) -> list[Path]:
        return draw(results[results["part"] == TRAINING], folder)

    def summarise(self, results: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return summarise(
            results[results["part"] == AGREEMENT], results[results["part"] == TRAINING]
        )


def _digits_task(
    settings: MultilabelSettings, k: int, seed: int, method: Method, workspace: Workspace
) -> Task:
    own = settings.digits
    samples = digits_samples(own, seed, settings.noise)
    return Task(
        network=digits_network(own, samples.classes, settings.logit_bound, seed),
        samples=samples,
        top_k=_layer(settings, own, samples.classes, k, method),
        exact=_layer(settings, own, samples.classes, k, "direct"),
        settings=own,
        k=k,
        seed=seed,
        augment=False,
        device=workspace.device,
    )


def _cifar_task(
    settings: MultilabelSettings, k: int, seed: int, method: Method, workspace: Workspace
) -> Task:
    if workspace.data is None:
        raise PaperError("CIFAR-100 needs its folder: give --data.")
    own = settings.cifar
    samples = cifar_samples(workspace.data, own, seed, settings.noise)
    return Task(
        network=cifar_network(own, samples.classes, settings.logit_bound, seed),
        samples=samples,
        top_k=_layer(settings, own, samples.classes, k, method),
        exact=_layer(settings, own, samples.classes, k, "direct"),
        settings=own,
        k=k,
        seed=seed,
        augment=own.augment,
        device=workspace.device,
    )


def _layer(
    settings: MultilabelSettings,
    training: DigitsSettings | CifarSettings,
    n: int,
    k: int,
    method: Method,
) -> TopK:
    solver = black_box(settings.forward, n, k, settings.temperature, settings.cone)
    return differentiable_top_k(
        method, solver, n, k, settings.temperature, inner=training.inner, cone=settings.cone
    )
