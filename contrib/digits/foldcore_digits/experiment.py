"""The whole experiment: the same network under three losses, the fold watched and checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from foldcore.hooks import listening

from .closed_form import closed_form_top_k
from .data import CLASSES, Digits, load_digits
from .gradient_check import gradient_error
from .layer import smooth_top_k
from .losses import Loss, SoftmaxLoss, TopKLoss
from .meter import FoldMeter
from .network import BoundedNetwork
from .training import EpochRecord, TrainingConfig, train

TEMPERATURE = 1.0
FOLDED, CLOSED_FORM, SOFTMAX = "folded top-k", "closed-form top-k", "softmax"
"""Names of the three runs: the layer, the same function in closed form, plain cross-entropy."""
CHECKED_SAMPLES = 32


@dataclass(frozen=True)
class Experiment:
    """What is run.

    Attributes:
        training: How each network is trained.
        noise: Probability that a training label is drawn again within its group.
        train_size: Number of training samples; None for all 1,437.
        seed: Decides split, noise and initial weights.
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    noise: float = 0.3
    train_size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Results:
    """What came out.

    Attributes:
        records: One record per epoch, by the run's name.
        seconds: Training time, in seconds, by the run's name.
        meter: Times and residuals of the folded layer over its training.
        gradient_error: Relative error of the layer's gradient at the logits of the trained network
            for the first training samples.
    """

    records: Mapping[str, list[EpochRecord]]
    seconds: Mapping[str, float]
    meter: FoldMeter
    gradient_error: float

    @property
    def loss_difference(self) -> float:
        """Largest difference of the epochs' losses between folded and closed-form training."""
        pairs = zip(self.records[FOLDED], self.records[CLOSED_FORM], strict=True)
        return max(abs(folded.loss - exact.loss) for folded, exact in pairs)


def run(
    experiment: Experiment,
    on_step: Callable[[str], None] = lambda name: None,
    digits: Digits | None = None,
) -> Results:
    """Train the three networks from the same weights, on the same batches in the same order.

    Args:
        experiment: What to run.
        on_step: Called after every training step with the run's name, for a progress bar.
        digits: The samples, if they are loaded already.
    """
    digits = digits or load_digits(
        experiment.seed, noise=experiment.noise, train_size=experiment.train_size
    )
    k = experiment.training.k
    layer = smooth_top_k(CLASSES, k, TEMPERATURE)

    def folded(c: Tensor) -> Tensor:
        x: Tensor = layer(c=c)
        return x

    losses: dict[str, Loss] = {
        FOLDED: TopKLoss(folded),
        CLOSED_FORM: TopKLoss(lambda c: closed_form_top_k(c, k, TEMPERATURE)),
        SOFTMAX: SoftmaxLoss(),
    }
    meter = FoldMeter()
    networks, records, seconds = {}, {}, {}
    for name, loss in losses.items():
        networks[name] = BoundedNetwork(experiment.seed)
        started = time.perf_counter()
        with listening(meter if name == FOLDED else FoldMeter()):
            records[name] = train(
                networks[name],
                loss,
                digits,
                experiment.training,
                on_step=lambda name=name: on_step(name),  # type: ignore[misc]
            )
        seconds[name] = time.perf_counter() - started
    logits = networks[FOLDED](digits.train_images[:CHECKED_SAMPLES])
    return Results(records, seconds, meter, gradient_error(folded, logits, seed=experiment.seed))
