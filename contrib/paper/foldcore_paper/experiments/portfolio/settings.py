"""Settings of the portfolio experiment."""

from __future__ import annotations

from pydantic import Field

from ...experiment import Settings
from .data import MarketSettings


class AccuracySettings(Settings):
    """Which errors are measured, and on how many price vectors.

    Attributes:
        methods: Names of :data:`.methods.LAYERS`.
        seeds: Markets of each degree (count).
        samples: Price vectors of each kind in each market (count).
    """

    methods: tuple[str, ...]
    seeds: int = Field(ge=1)
    samples: int = Field(ge=1)


class TimingSettings(Settings):
    """Which forward passes are timed.

    Attributes:
        methods: Names of :data:`.methods.LAYERS`.
        rounds: Batches that each method solves, in turns (count).
    """

    methods: tuple[str, ...]
    rounds: int = Field(ge=1)


class PortfolioSettings(Settings):
    """Settings of all three parts.

    Attributes:
        degrees: Degrees of the data's nonlinearity.
        seeds: Seeds of the training runs, each with its own market and initial weights (count).
        methods: What is trained: names of :data:`.methods.LAYERS`, or "two-stage".
        market: Sizes of the market.
        n_train, n_test: Samples (count).
        epochs: Passes over the training data (count).
        batch_size: Samples a step (count).
        learning_rate: Of Adam.
        hidden: Width of the four hidden layers.
        decision_samples: Test samples for which the layer's own decisions are judged (count).
    """

    degrees: tuple[int, ...]
    seeds: int = Field(ge=1)
    methods: tuple[str, ...]
    market: MarketSettings = MarketSettings()
    n_train: int = Field(ge=1)
    n_test: int = Field(ge=1)
    epochs: int = Field(ge=1)
    batch_size: int = 32
    learning_rate: float = 1e-2
    hidden: int = 64
    decision_samples: int = Field(ge=1)
    accuracy: AccuracySettings
    timing: TimingSettings
