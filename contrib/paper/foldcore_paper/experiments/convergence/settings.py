"""What the convergence experiment is run with."""

from __future__ import annotations

from pydantic import Field

from ...experiment import Settings


class ConvergenceSettings(Settings):
    """What is unfolded, from where and how far."""

    instances: int = Field(ge=1, description="Random logits c (count).")
    batch: int = Field(ge=1, description="Instances that one cell unfolds at once (count).")
    classes: int = Field(ge=2, description="n (count).")
    k: int = Field(ge=1, description="Sum of x (count).")
    temperature: float = Field(gt=0, description="τ, in units of c.")
    logit_bound: float = Field(gt=0, description="Bound of |c|, in units of c.")
    floor: float = Field(gt=0, description="Lower bound of x, below every entry of x*.")
    step_size: float = Field(gt=0, description="α of projected gradient descent.")
    iterations: int = Field(ge=1, description="Most steps K unfolded (count).")
    every_step_until: int = Field(ge=1, description="Measure at each K up to here (count).")
    stride: int = Field(ge=1, description="Then at each stride-th K (count).")

    def counts(self) -> list[int]:
        """Return the numbers K of steps at which errors are measured."""
        dense = min(self.every_step_until, self.iterations)
        return [*range(1, dense + 1), *range(dense + self.stride, self.iterations + 1, self.stride)]

    def seeds(self, batch: int) -> range:
        """Return the seeds of the instances of a batch."""
        return range(batch * self.batch, min((batch + 1) * self.batch, self.instances))
