"""Certificate (a): the scaled KKT residual of a point, from the problem's data alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..atoms import Indicator, Regularizer
from ..atoms.stacked import StackedTerms
from ..errors import UnsupportedError
from ..program.program import SmoothProgram
from ..solution import Duals, KKTReport
from .active_set import ACTIVE_TOLERANCES
from .duals import recover_at
from .point import ProgramPoint
from .subgradient import recover_subgradient


def kkt_report(
    program: SmoothProgram, x: Tensor, duals: Duals | None = None
) -> tuple[KKTReport, Duals]:
    """Measure how far x is from a KKT point, per sample, without gradient.

    Source: Nocedal and Wright, Numerical Optimization (2006), conditions (12.34), with complementarity as
    min(slack, multiplier), which unlike the product needs no common scale.

    Args:
        program: The bound problem, lowered.
        x: Shape (B, n).
        duals: The solver's multipliers; recovered from x where None.

    Returns:
        The report and the duals it used.

    Raises:
        UnsupportedError: If there are regularizers, or sets without rows, beside other constraints.
    """
    with torch.no_grad():
        if program.regularizers or program.structure.without_rows:
            return _proximal_report(program, x)
        point = ProgramPoint(program, x)
        if duals is None:
            return _best_recovered(point)
        unique = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        return _report(point, duals, unique), duals


def _best_recovered(point: ProgramPoint) -> tuple[KKTReport, Duals]:
    """Recover duals with the active tolerance that leaves the smallest residual per sample.

    An inaccurate solver's active constraints have slack: too tight a tolerance misses them. Any
    choice is honest, for the residual holds the slack of what counts as active.
    """
    good = ACTIVE_TOLERANCES[0]
    recovered = recover_at(point, good)
    duals, report = recovered.duals, _report(point, recovered.duals, recovered.unique)
    for tolerance in ACTIVE_TOLERANCES[1:]:
        if bool((report.residual <= good).all()):
            break
        recovered = recover_at(point, tolerance)
        trial = _report(point, recovered.duals, recovered.unique)
        better = trial.residual < report.residual
        report = trial.where(better, report)
        duals = recovered.duals.where(better, duals)
    return report, duals


def _report(point: ProgramPoint, duals: Duals, unique: Tensor) -> KKTReport:
    # Differs from (12.34) in three things. 1. Residuals are relative, to 1 + the size of the point or of the
    # largest term of ∇L: one tolerance serves all units. 2. Complementarity is min(slack, multiplier), not
    # their product, whose size depends on the units of both. 3. max(slack, multiplier) is reported as
    # well: it tells how far the solution is from a kink.
    program, x, gradient = point.program, point.x, point.gradient
    pull = program.pull(point.constraint_rows, duals)
    pinned = None  # the variables whose bounds coincide
    if program.lower is not None and program.upper is not None:
        pinned = (program.lower == program.upper).expand_as(x)
    terms = [gradient, pull]
    if program.lower is not None:
        terms.append(duals.lower)
    if program.upper is not None:
        terms.append(duals.upper)
    primal_size = 1 + x.abs().amax(-1)
    # The largest term of the stationarity condition.
    dual_size = 1 + torch.cat(terms, -1).abs().amax(-1)
    slacks, multipliers = _inequality_pairs(point, duals, pinned)
    slacks, multipliers = slacks / primal_size[:, None], multipliers / dual_size[:, None]
    violation = _largest(point.equality) / primal_size
    # Both bounds of a pinned variable count as active, and hold one direction.
    active = (multipliers > slacks).sum(-1)
    if pinned is not None:
        active = active - pinned.sum(-1)
    if slacks.shape[-1]:
        primal = violation.maximum(-slacks.amin(-1))
        dual = (-multipliers.amin(-1)).clamp(min=0)
        complementarity = torch.minimum(slacks, multipliers).amax(-1).clamp(min=0)
        margin = torch.maximum(slacks, multipliers).amin(-1)
    else:
        primal, dual, complementarity = violation, *violation.new_zeros(2, x.shape[0])
        margin = torch.full_like(primal_size, float("inf"))
    return KKTReport(
        stationarity=(gradient + pull).abs().amax(-1) / dual_size,
        primal=primal,
        dual=dual,
        complementarity=complementarity,
        margin=margin,
        free_directions=(program.n - program.n_equality - active).to(x.dtype),
        unique_duals=unique,
    )


def _inequality_pairs(
    point: ProgramPoint, duals: Duals, pinned: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the slacks and multipliers of all inequalities and bounds, (B, m + up to 2n) each.

    A variable whose bounds coincide is an equality: its slack of 0 says nothing about strict
    complementarity, so the pair is reported as strictly active.
    """
    slacks, multipliers = [-point.inequality], [duals.inequality]
    bounds = ((point.above_lower, duals.lower), (point.below_upper, duals.upper))
    for slack, multiplier in bounds:
        if slack is None:
            continue
        if pinned is not None:
            multiplier = torch.where(pinned, float("inf"), multiplier)
        slacks.append(slack)
        multipliers.append(multiplier)
    if len(slacks) == 1:
        return slacks[0], multipliers[0]
    return torch.cat(slacks, -1), torch.cat(multipliers, -1)


def _proximal_report(program: SmoothProgram, x: Tensor) -> tuple[KKTReport, Duals]:
    """Certificate for terms and sets without rows, by their proximal operators.

    One term R: the natural map x - prox_R(x - ∇f), zero iff 0 ∈ ∇f + ∂R. Source: Beck, First-Order
    Methods in Optimization (2017), theorem 10.7. Other terms Σ g_i(D_i x): recovered subgradients, their
    sum as stationarity, their membership of ∂g as complementarity. The margin is unknown: NaN.
    """
    terms = _terms(program)
    gradient = program.gradient(x)
    size, zero = 1 + _largest(gradient), x.new_zeros(x.shape[0])
    primal, complementarity = zero, zero
    if len(terms) == 1 and terms[0].has_prox:
        stationarity = _largest(x - terms[0].prox(x - gradient, 1.0)) / size
        if isinstance(terms[0], Indicator):
            primal = _largest(x - terms[0].prox(x, 1.0)) / (1 + _largest(x))
    else:
        stacked = StackedTerms(terms, program.n)
        found = recover_subgradient(stacked, x, gradient)
        stationarity = found.stationarity / size
        image_size = 1 + _largest(stacked.image(x)).maximum(_largest(found.value))
        complementarity = found.inclusion / image_size
    report = KKTReport(
        stationarity=stationarity,
        primal=primal,
        dual=zero,
        complementarity=complementarity,
        margin=torch.full_like(size, float("nan")),
        free_directions=torch.full_like(size, float("nan")),
        unique_duals=torch.ones_like(size, dtype=torch.bool),
    )
    return report, program.pad_duals(None)


def _terms(program: SmoothProgram) -> tuple[Regularizer, ...]:
    if not program.regularizers and len(program.sets) == 1:
        return (Indicator(program.sets[0]),)
    bounded = program.lower is not None or program.upper is not None
    if program.sets or program.n_equality or program.n_inequality or bounded:
        names = [type(atom).__name__ for atom in (*program.regularizers, *program.sets)]
        raise UnsupportedError(
            f"kkt_report: {', '.join(names)} beside other constraints cannot be certified. Give "
            "sets as Indicator terms; lower sums of absolute values first (foldcore.Lowering)."
        )
    return program.regularizers


def _largest(value: Tensor) -> Tensor:
    """Return the largest magnitude per sample; 0 for no entries. Shapes (B, k) -> (B,)."""
    return value.abs().amax(-1) if value.shape[-1] else value.new_zeros(value.shape[0])
