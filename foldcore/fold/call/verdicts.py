"""Bookkeeping of which samples of a call failed, and why."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import SolveError, SolveWarning, name_samples
from ...solution import Status


class Outcome:
    """Status and message per sample; the first failure of a sample is the one that is kept."""

    def __init__(self, batch: int) -> None:
        self._status = [Status.OPTIMAL] * batch
        self._messages = [""] * batch
        self._failed: tuple[int, ...] | None = ()

    @property
    def status(self) -> tuple[Status, ...]:
        return tuple(self._status)

    @property
    def messages(self) -> tuple[str, ...]:
        return tuple(self._messages)

    def fail(self, mask: Tensor, status: Status, message: str) -> None:
        """Mark the samples of a mask (B,) as failed."""
        if not bool(mask.any()):
            return
        for i in torch.nonzero(mask).flatten().tolist():
            self.fail_one(i, status, message)

    def fail_one(self, sample: int, status: Status, message: str) -> None:
        if self._status[sample].ok and not status.ok:
            self._status[sample], self._messages[sample] = status, message
            self._failed = None  # found anew when asked for

    def merge(self, status: Sequence[Status], messages: Sequence[str], source: str) -> None:
        """Take over a solver's own statuses."""
        if status.count(Status.OPTIMAL) == len(status):
            return
        for i, one in enumerate(status):
            if not one.ok:
                words = messages[i] if i < len(messages) and messages[i] else one.value
                self.fail_one(i, one, f"{source}: {words}")

    @property
    def failed(self) -> tuple[int, ...]:
        """The failed samples in ascending order."""
        if self._failed is None:
            self._failed = tuple(i for i, status in enumerate(self._status) if not status.ok)
        return self._failed

    def donor(self) -> int | None:
        """Return the first good sample, or None."""
        return next((i for i, status in enumerate(self._status) if status.ok), None)

    def mask(self, device: torch.device) -> Tensor:
        """Return the failed samples as a mask. Shape (B,), bool."""
        if not self.failed:
            return torch.zeros(len(self._status), dtype=torch.bool, device=device)
        return torch.tensor([not status.ok for status in self._status], device=device)

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
            reasons.setdefault(f"{self._status[i].value} ({self._messages[i]})", []).append(i)
        shown = "; ".join(f"samples {name_samples(where)}: {why}" for why, where in reasons.items())
        message = f"{subject}: {len(failed)} of {len(self._status)} samples failed. {shown}."
        if policy == "raise":
            raise SolveError(
                f"{message} Mend these samples, or set on_failure: mask to go on without them.",
                failed,
            )
        warnings.warn(f"{message} They are NaN with zero gradient.", SolveWarning, stacklevel=4)
