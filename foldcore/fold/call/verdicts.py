"""Bookkeeping of which samples of a call failed, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ...errors import SolveError, SolveWarning, name_samples
from ...solution import KKTReport, Solution, Status
from .inputs import Inputs
from .policy import act

T = TypeVar("T")


class Verdicts:
    """Status and message per sample; the first failure of a sample is the one that is kept.

    Attributes:
        failures: How many samples have failed; it only grows.
        clean: Whether none has. All that a call without failures ever asks.
        dead: Whether every sample has.
    """

    def __init__(self, batch: int) -> None:
        self.failures = 0
        self.clean, self.dead = True, False
        self._status = [Status.OPTIMAL] * batch
        self._messages = [""] * batch

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
            self.failures += 1
            self.clean, self.dead = False, self.failures == len(self._status)

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
        if self.clean:
            return ()
        return tuple(i for i, status in enumerate(self._status) if not status.ok)

    def donor(self) -> int | None:
        """Return the first good sample, or None."""
        return next((i for i, status in enumerate(self._status) if status.ok), None)

    def mask(self, device: torch.device) -> Tensor:
        """Return the failed samples as a mask. Shape (B,), bool."""
        if self.clean:
            return torch.zeros(len(self._status), dtype=torch.bool, device=device)
        return torch.tensor([not status.ok for status in self._status], device=device)

    def report(self, subject: str, policy: Literal["raise", "mask"]) -> None:
        """Raise, or warn once, naming samples by reason.

        Raises:
            SolveError: If ``policy`` is "raise" and a sample failed.
        """
        if self.clean:
            return
        failed = self.failed
        reasons: dict[str, list[int]] = {}
        for i in failed:
            reasons.setdefault(f"{self._status[i].value} ({self._messages[i]})", []).append(i)
        shown = "; ".join(f"samples {name_samples(where)}: {why}" for why, where in reasons.items())
        message = f"{subject}: {len(failed)} of {len(self._status)} samples failed. {shown}."
        advice = "Mend these samples, or set on_failure: mask to go on without them."
        act(
            policy,
            failed,
            raised=(SolveError, f"{message} {advice}"),
            warned=(SolveWarning, f"{message} They are NaN with zero gradient."),
        )


def settled(verdicts: Verdicts, attempt: Callable[[], T]) -> T | None:
    """Repeat an attempt until it fails no further sample; None if no sample is left.

    What is recorded on the graph must hold no failed sample: it could turn the gradients that the
    others share into NaN. The attempt sees failed samples replaced by a good one.
    """
    while True:
        known = verdicts.failures
        found = attempt()
        if verdicts.dead:
            return None
        if verdicts.failures == known:
            return found


def repaired_inputs(inputs: Inputs, verdicts: Verdicts) -> Inputs:
    """Replace failed samples by a good one, so that they can harm nothing shared."""
    donor = None if verdicts.clean else verdicts.donor()
    if donor is None or not inputs.batched:
        return inputs
    return inputs.with_donor(verdicts.mask(inputs.device), donor)


def with_donor_rows(raw: Solution, verdicts: Verdicts) -> Solution:
    """Give failed samples the primal and duals of a good one, to match their replaced inputs."""
    donor = None if verdicts.clean else verdicts.donor()
    if donor is None:
        return raw
    failed = verdicts.mask(raw.primal.device)

    def repaired(value: Tensor) -> Tensor:
        return torch.where(failed[:, None], value[donor], value)

    duals = raw.duals
    if duals is not None:
        duals = duals.map(repaired)
    return replace(raw, primal=repaired(raw.primal), duals=duals)


def masked(solution: Solution, verdicts: Verdicts, device: torch.device, filler: float) -> Solution:
    """Return the solution with failed samples set to the filler, cut off from autograd."""
    if verdicts.clean:
        return replace(solution, messages=("",) * len(solution.status))
    solution = replace(solution, status=verdicts.status, messages=verdicts.messages)
    failed = verdicts.mask(device)[:, None]
    duals = solution.duals
    if duals is not None:
        duals = duals.map(lambda value: torch.where(failed, filler, value))
    residual = solution.fixed_point_residual
    if residual is not None:
        residual = torch.where(failed[:, 0], float("nan"), residual)
    primal = torch.where(failed, filler, solution.primal)
    return replace(solution, primal=primal, duals=duals, fixed_point_residual=residual)


def dead_solution(inputs: Inputs, n: int, verdicts: Verdicts, filler: float) -> Solution:
    """Return a solution in which every sample failed; its gradients are exactly zero.

    Certificate (a) is NaN for all of them: there is no point to certify. Multipliers and certificate
    (b) are None.
    """
    primal = torch.full((inputs.batch, n), filler, dtype=inputs.dtype, device=inputs.device)
    if inputs.needs_grad:
        links = [v.sum() for v in inputs.values.values() if v.requires_grad]
        primal = torch.where(
            torch.ones_like(primal, dtype=torch.bool), primal, torch.stack(links).sum()
        )
    unknown = torch.full((inputs.batch,), float("nan"), dtype=inputs.dtype, device=inputs.device)
    kkt = KKTReport(
        stationarity=unknown,
        primal=unknown,
        dual=unknown,
        complementarity=unknown,
        margin=unknown,
        free_directions=unknown,
        unique_duals=torch.zeros_like(unknown, dtype=torch.bool),
    )
    return Solution(primal, verdicts.status, messages=verdicts.messages, kkt=kkt)


def squeeze(solution: Solution) -> Solution:
    """Drop the batch dimension that an unbatched call does not have."""
    duals = solution.duals
    if duals is not None:
        duals = duals.map(lambda value: value[0])
    return replace(solution, primal=solution.primal[0], duals=duals)
