"""Which multipliers an SQP step is built from."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import Duals, SmoothProgram, recover_duals

_TOLERANCES = (1e-6, 1e-5, 1e-4, 1e-3)
"""Slacks up to which constraints count as active, tried in turn where multipliers are poor."""

_ROUNDING = 100.0
"""Machine epsilons of mismatch below which multipliers are not recovered anew."""

_GOOD = 1e-8
"""Mismatch below which no constraint is missing among the active: wider tolerances are not tried."""


def best_multipliers(program: SmoothProgram, x: Tensor, given: Duals | None) -> Duals:
    """Return, per sample, the multipliers that explain x best, without gradient.

    The Hessian of the Lagrangian is as exact as they are. Candidates are those given and those
    recovered at x by least squares, with more constraints counted as active the less accurate x
    turns out to be: a black box that leaves an error of 1e-4 in x leaves slacks of that size.

    Args:
        program: The bound problem.
        x: Shape (B, n).
        given: Multipliers of a solver, or of a point near x.
    """
    with torch.no_grad():
        rounding = _ROUNDING * torch.finfo(x.dtype).eps
        good = max(_GOOD, rounding)
        best = recover_duals(program, x, _TOLERANCES[0]).duals if given is None else given
        smallest = _mismatch(program, x, best)
        for tolerance in _TOLERANCES[given is None :]:
            poor = ~(smallest <= (rounding if tolerance == _TOLERANCES[0] else good))
            if not bool(poor.any()):
                break
            candidate = recover_duals(program, x, tolerance).duals
            found = _mismatch(program, x, candidate)
            better = poor & ~(found >= smallest)
            smallest = torch.where(better, found, smallest)
            best = candidate.where(better, best)
        return best


def _mismatch(program: SmoothProgram, x: Tensor, duals: Duals) -> Tensor:
    """Return how badly multipliers explain x, per sample, whatever the units of the problem. Shape (B,).

    It is the sum of the stationarity residual, relative to the largest term in it, and of
    complementarity, where a slack is the distance in x to its constraint, relative to the size of x, and
    a multiplier the force of its constraint, relative to the same largest term. A sum, because the slack
    that x leaves at an active constraint is the same for all multipliers and must not hide the rest.
    """
    gradient = program.gradient(x)
    pull = gradient + program.constraint_pull(x, duals)
    inequality = program.inequality_jacobian(x)
    steepness = torch.linalg.vector_norm(inequality, dim=-1).expand(x.shape[0], -1)
    forces = [steepness * duals.inequality, duals.lower, duals.upper]
    size = _or_one(torch.stack([_largest(term) for term in (gradient, *forces)]).amax(0))
    distances = [-program.inequality(x) / _or_one(steepness)]
    present = [forces[0]]
    if program.lower is not None:
        distances.append(x - program.lower)
        present.append(duals.lower)
    if program.upper is not None:
        distances.append(program.upper - x)
        present.append(duals.upper)
    length = _or_one(_largest(x))[:, None]
    gaps = torch.minimum(torch.cat(distances, -1) / length, torch.cat(present, -1) / size[:, None])
    return _largest(pull) / size + _largest(gaps)


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, torch.ones_like(size))


def _largest(value: Tensor) -> Tensor:
    return value.abs().amax(-1) if value.shape[-1] else value.new_zeros(value.shape[0])
