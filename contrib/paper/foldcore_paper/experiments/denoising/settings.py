"""Settings of the denoising experiment."""

from __future__ import annotations

from pydantic import Field

from ...experiment import Settings


class TimingSettings(Settings):
    """Which layers are timed."""

    weights: tuple[float, ...] = Field(description="λ.")
    batch_sizes: tuple[int, ...] = Field(description="Signals a call (count).")
    repeats: int = Field(ge=1, description="Timings of each, in turn with the other methods.")
    rtol: float = Field(
        gt=0, description="Tolerance of f-FDPG that leaves residuals of qpth's size."
    )
    eps: float = Field(
        gt=0, description="qpth's, at which its solutions, if not its gradients, are at their best."
    )


class DenoisingSettings(Settings):
    """Settings of a run; see configs/denoising.yaml."""

    signals: int = Field(ge=20, description="Training and test signals (count).")
    test_fraction: float = Field(gt=0, lt=1)
    seed: int
    weights: tuple[float, ...] = Field(description="λ of the learned denoisers.")
    baseline_weights: tuple[float, ...] = Field(
        description="λ among which total variation's best is searched."
    )
    learning_rate: float = Field(gt=0, description="Of Adam.")
    batch_size: int = Field(ge=1)
    folded_epochs: int = Field(ge=1, description="Epochs of f-FDPG.")
    qpth_epochs: int = Field(ge=1, description="Epochs of qpth, the slower one.")
    evaluations_per_epoch: int = Field(ge=1, description="How often the test MSE is taken.")
    rtol: float = Field(gt=0, description="Tolerance of f-FDPG's forward pass in training.")
    ridge: float = Field(gt=0, description="Weight of ½‖t‖² in the form for qpth.")
    eps: float = Field(gt=0, description="Sum of residuals and gap at which qpth stops.")
    pretraining_steps: int = Field(
        ge=1, description="Steps of f-FDPG to the learned D of the timings and gradients."
    )
    degenerate_margin: float = Field(
        ge=0,
        description="Samples whose strict-complementarity margin is at most this are left out when "
        "gradients are compared.",
    )
    timing: TimingSettings
