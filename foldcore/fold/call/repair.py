"""Keep failed samples from harming the others: donors before the fold, fillers after it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...solution import Duals, KKTReport, Solution
from .inputs import Inputs
from .verdicts import Outcome


def repaired_inputs(inputs: Inputs, outcome: Outcome) -> Inputs:
    """Replace failed samples by a good one, so that they can harm nothing shared."""
    donor = outcome.donor()
    if not outcome.failed or donor is None or not inputs.batched:
        return inputs
    return inputs.with_donor(outcome.mask(inputs.device), donor)


def with_donor_rows(raw: Solution, outcome: Outcome) -> Solution:
    """Give failed samples the primal and duals of a good one, to match their replaced inputs."""
    donor = outcome.donor()
    if not outcome.failed or donor is None:
        return raw
    failed = outcome.mask(raw.primal.device)

    def repaired(value: Tensor) -> Tensor:
        return torch.where(failed[:, None], value[donor], value)

    duals = raw.duals
    if duals is not None:
        duals = Duals(**{name: repaired(value) for name, value in vars(duals).items()})
    return replace(raw, primal=repaired(raw.primal), duals=duals)


def masked(solution: Solution, outcome: Outcome, device: torch.device, filler: float) -> Solution:
    """Return the solution with failed samples set to the filler, cut off from autograd."""
    solution = replace(solution, status=tuple(outcome.status), messages=tuple(outcome.messages))
    if not outcome.failed:
        return solution
    failed = outcome.mask(device)[:, None]
    duals = solution.duals
    if duals is not None:
        duals = Duals(
            **{name: torch.where(failed, filler, value) for name, value in vars(duals).items()}
        )
    residual = solution.fixed_point_residual
    if residual is not None:
        residual = torch.where(failed[:, 0], float("nan"), residual)
    primal = torch.where(failed, filler, solution.primal)
    return replace(solution, primal=primal, duals=duals, fixed_point_residual=residual)


def dead_solution(inputs: Inputs, n: int, outcome: Outcome, filler: float) -> Solution:
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
    return Solution(primal, tuple(outcome.status), messages=tuple(outcome.messages), kkt=kkt)


def squeeze(solution: Solution) -> Solution:
    """Drop the batch dimension that an unbatched call does not have."""
    duals = solution.duals
    if duals is not None:
        duals = Duals(**{name: value[0] for name, value in vars(duals).items()})
    return replace(solution, primal=solution.primal[0], duals=duals)
