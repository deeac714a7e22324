"""What the experiment can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...experiment import Settings

Inner = Literal["qpth", "newton"]
"""What differentiates the inner QP of f-PGDa and f-SQP: qpth, as in the paper, or osqp with a folded
Newton step, which is exact to rounding."""
Forward = Literal["bisection", "cvxpy"]
Method = Literal["f-PGDa", "f-SQP", "cvxpylayers", "cvxpylayers-default", "direct"]
Fraction = Field(ge=0, le=1)


class ConeSettings(Settings):
    """Settings of cvxpylayers: of SCS and of diffcp's derivative.

    Attributes:
        eps: SCS's absolute and relative tolerance (dimensionless).
        max_iters: SCS's limit (count).
        mode: How diffcp solves the derivative's linear system; lsqr is its default.
        threads: Threads over the samples of a batch (count).
    """

    eps: float = Field(gt=0)
    max_iters: int = Field(gt=0)
    mode: Literal["lsqr", "dense"]
    threads: int = Field(1, gt=0)


class AgreementSettings(Settings):
    """The comparison of gradients on random logits.

    Attributes:
        problems: Pairs (number of classes, k).
        samples: Number of logit vectors c.
        seed: Decides c and the cotangents.
    """

    problems: list[tuple[int, int]]
    samples: int = Field(gt=0)
    seed: int


class TrainingSettings(Settings):
    """How networks are trained; the same for every method.

    Attributes:
        k: The runs' values of k, Σ x = k.
        seeds: The runs' seeds: of split, noise, initial weights and order of samples.
        epochs: Passes over the training samples (count).
        batch_size: Samples a step (count).
        learning_rate, momentum, weight_decay: Of SGD with Nesterov's momentum.
        inner: What differentiates the inner QPs.
        train_size: Number of training samples; None for all.
    """

    k: list[int]
    seeds: list[int]
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    inner: Inner
    train_size: int | None = Field(None, gt=0)


class DigitsSettings(TrainingSettings):
    """scikit-learn's digits.

    Attributes:
        hidden: ReLU units of the network's one hidden layer (count).
    """

    hidden: int = Field(gt=0)


class CifarSettings(TrainingSettings):
    """CIFAR-100 and DenseNet, when the user names the folder of the data.

    Attributes:
        depth, growth: Of the DenseNet.
        bottleneck: Whether its layers have 1x1 bottlenecks and its transitions halve the channels.
        augment: Whether training images are shifted and mirrored.
        test_share: Share of the samples of the batch ``train`` that is kept for testing.
    """

    depth: int = Field(gt=0)
    growth: int = Field(gt=0)
    bottleneck: bool
    augment: bool
    test_share: float = Field(gt=0, lt=1)


class MultilabelSettings(Settings):
    """All of it.

    Attributes:
        methods: The backward passes: the three that are compared; cvxpylayers-default, cvxpylayers with
            its own tolerances; and direct, the exact reference.
        forward: The shared forward pass of training.
        noise: Probability that a training label is drawn again within its group of five.
        temperature: τ of the smooth top-k, in units of the logits.
        logit_bound: Bound on the logits, so that max x / min x <= exp(2 bound / τ).
        cone: Settings of cvxpylayers.
    """

    methods: list[Method]
    forward: Forward
    noise: float = Fraction
    temperature: float = Field(gt=0)
    logit_bound: float = Field(gt=0)
    cone: ConeSettings
    agreement: AgreementSettings
    digits: DigitsSettings
    cifar: CifarSettings
