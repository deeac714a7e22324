"""Settings of the bilinear experiment; the values are in ``configs/bilinear.yaml``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ...experiment import Settings

Smoothing = Literal["none", "quadratic"]
"""What the layer's problem carries beside the objective: nothing, or weight/2·(‖x‖² + ‖y‖²)."""


class Method(Settings):
    """One way to spend the epochs: first on the squared error of (c, d), then on regret."""

    name: str = Field(pattern=r"^[a-z0-9 -]+$", description="Label in results and figures.")
    two_stage_epochs: int = Field(ge=0, description="Epochs on the squared error (count).")
    regret_epochs: int = Field(ge=0, description="Epochs on regret through f-PGDb (count).")
    learning_rate: float = Field(1e-2, gt=0, description="Adam's; E.1 prints 1e-2.")
    smoothing: Smoothing = Field(
        "none", description="Smoothing of the layer's problem; regret never has it."
    )
    weight: float = Field(
        0.0, ge=0, description="Its weight, in units of the objective per squared unit of x."
    )

    @model_validator(mode="after")
    def _check_weight(self) -> Method:
        if (self.smoothing == "none") != (self.weight == 0):
            raise ValueError(
                f"method {self.name!r} has smoothing {self.smoothing} with weight {self.weight}; "
                f"expected a positive weight with quadratic, and 0 with none"
            )
        return self


class BilinearSettings(Settings):
    """Settings of one run."""

    n: int = Field(ge=2, description="Size of x and of y (count); the problem has 2n variables.")
    x_total: int = Field(ge=1, description="p: sum of x.")
    y_total: int = Field(ge=1, description="q: sum of y.")
    coupling_scale: float = Field(gt=0, description="Standard deviation of the entries of Q.")
    objectives: tuple[int, ...] = Field(
        description="Seeds of Q, of the network and of its batches."
    )
    samples: int = Field(ge=2, description="Pairs of features and costs (count).")
    test_fraction: float = Field(gt=0, lt=1, description="Share of them that is tested on.")
    features: int = Field(ge=1, description="Size of a feature vector (count).")
    teacher_width: int = Field(ge=1, description="Hidden units of the network behind the targets.")
    data_seed: int = Field(description="Seed of features and targets, the same for all objectives.")
    layers: int = Field(ge=1, description="Linear layers of the trained network (count).")
    width: int = Field(ge=1, description="Units of its hidden layers (count).")
    batch_size: int = Field(ge=1, description="Samples of one step (count).")
    time_limit_seconds: float = Field(gt=0, description="Gurobi's limit for one solve.")
    mip_gap: float = Field(ge=0, description="Gurobi's relative gap to the global optimum.")
    methods: tuple[Method, ...] = Field(description="What is compared.")

    @model_validator(mode="after")
    def _check_methods(self) -> BilinearSettings:
        names = [method.name for method in self.methods]
        if len(set(names)) != len(names):
            raise ValueError(f"two methods have one name: {names}")
        if max(self.x_total, self.y_total) >= self.n:
            raise ValueError(
                f"x_total {self.x_total} and y_total {self.y_total} must be below n = {self.n}: "
                f"else one point alone is feasible"
            )
        return self

    def method(self, name: str) -> Method:
        """Return the method of that name."""
        return next(method for method in self.methods if method.name == name)
