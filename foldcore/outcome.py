"""Bookkeeping of which samples of a call failed, and why."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import SolveError, SolveWarning, name_samples
from .solution import Status


class Outcome:
    """Status and message per sample; the first failure of a sample is the one that is kept."""

    def __init__(self, batch: int) -> None:
        self.status = [Status.OPTIMAL] * batch
        self.messages = [""] * batch

    def fail(self, mask: Tensor, status: Status, message: str) -> None:
        """Mark the samples of a mask (B,) as failed."""
        for i in torch.nonzero(mask).flatten().tolist():
            self.fail_one(i, status, message)

    def fail_one(self, sample: int, status: Status, message: str) -> None:
        if self.status[sample].ok:
            self.status[sample], self.messages[sample] = status, message

    def merge(self, status: Sequence[Status], messages: Sequence[str], source: str) -> None:
        """Take over a solver's own statuses."""
        for i, one in enumerate(status):
            if not one.ok:
                words = messages[i] if i < len(messages) and messages[i] else one.value
                self.fail_one(i, one, f"{source}: {words}")

    @property
    def failed(self) -> tuple[int, ...]:
        return tuple(i for i, status in enumerate(self.status) if not status.ok)

    def donor(self) -> int | None:
        """Return the first good sample, or None."""
        return next((i for i, status in enumerate(self.status) if status.ok), None)

    def mask(self, device: torch.device) -> Tensor:
        """Return the failed samples as a mask. Shape (B,), bool."""
        return torch.tensor([not status.ok for status in self.status], device=device)

    def report(self, subject: str, policy: str) -> None:
        """Raise, or warn once, naming samples by reason.

        Raises:
            SolveError: If ``policy`` is "raise" and a sample failed.
        """
        failed = self.failed
        if not failed:
            return
        reasons: dict[str, list[int]] = {}
        for i in failed:
            reasons.setdefault(f"{self.status[i].value} ({self.messages[i]})", []).append(i)
        shown = "; ".join(f"samples {name_samples(where)}: {why}" for why, where in reasons.items())
        message = f"{subject}: {len(failed)} of {len(self.status)} samples failed. {shown}."
        if policy == "raise":
            raise SolveError(
                f"{message} Mend these samples, or set on_failure: mask to go on without them.",
                failed,
            )
        warnings.warn(f"{message} They are NaN with zero gradient.", SolveWarning, stacklevel=4)
