"""Degenerate solutions: tell them apart, per sample, and act as the user chose.

1. I - Φᵀ singular, the system consistent and Ψᵀv the same for all its solutions: the gradient is right.
   It is reported by a warning (non-unique multipliers, for instance).
2. No strict complementarity: the solution map has a kink. The policy decides.
3. The system is inconsistent: the adjoint solver reports that it did not converge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...config import DegeneracyConfig
from ...errors import DegenerateError, DegenerateWarning, name_samples
from ...kkt import Ambiguity
from ...solution import KKTReport
from .policy import act
from .verdicts import Verdicts

_UNIQUE = 1e-6
"""Size of Ψᵀn, relative to that of a generic vector, up to which a null vector n has no effect."""

_LARGEST = 1e-2
"""Residuals above this are no solutions, whatever the margin."""

_TELLS = 10.0
"""A margin is decided above this times the residual: slack and multiplier may each be off by it."""


def undecided(report: KKTReport) -> Tensor:
    """Return the samples whose margin is below what their own residual can tell. Shape (B,), bool.

    An interior-point answer leaves slacks and multipliers of the size of its residual: which of a pair
    is zero at the solution it does not say.
    """
    if not bool((report.margin <= _TELLS * _LARGEST).any()):
        return torch.zeros_like(report.margin, dtype=torch.bool)
    residual = report.residual
    rough = residual > 100 * torch.finfo(residual.dtype).eps
    return rough & (report.margin <= _TELLS * residual)


def check_complementarity(
    report: KKTReport,
    verdicts: Verdicts,
    config: DegeneracyConfig,
    subject: str,
    kinks: Callable[[Tensor], dict[int, str]],
) -> None:
    """Act on samples whose strict-complementarity margin is too small for a unique gradient.

    Args:
        kinks: (tolerance per sample, below 0 for those not asked about) -> the samples that have a
            kink, with the constraints that make it; see :func:`foldcore.kkt.kinked`.

    Raises:
        DegenerateError: If the policy is "raise" and a good sample is degenerate.
    """
    floor = max(config.margin, 100 * torch.finfo(report.margin.dtype).eps)
    doubtful = undecided(report)
    weak = (report.margin <= floor) | doubtful
    if not bool(weak.any()):
        return
    weak = weak & ~verdicts.mask(report.margin.device)
    limit = torch.where(doubtful, (_TELLS * report.residual).clamp_min(floor), floor)
    found = kinks(torch.where(weak, limit, -1.0)) if bool(weak.any()) else {}
    samples = sorted(found)
    if not samples:
        return
    message = (
        f"{subject}: {len(samples)} samples ({name_samples(samples)}) are degenerate: an active "
        f"constraint has no multiplier (margin {float(report.margin[samples].min()):.1e}; sample "
        f"{samples[0]}: {found[samples[0]]}), so the solution has a kink there"
    )
    if bool(doubtful[samples].any()):
        message += (
            f", or its residual of {float(report.residual[samples].max()):.1e} is too large to tell"
        )
    advice = (
        "Smooth the problem, set fixed_point.polish or tighten the solver's tolerances where the "
        "answer is inexact, or set degeneracy.policy: one_sided."
    )
    act(
        config.policy,
        samples,
        raised=(DegenerateError, f"{message}. {advice}"),
        warned=(DegenerateWarning, f"{message}; the gradient is one-sided."),
    )


def check_ambiguities(found: Sequence[Ambiguity], config: DegeneracyConfig, subject: str) -> None:
    """Act on derivatives that do not exist: the system of the rule's own step leaves them open.

    Raises:
        DegenerateError: If the policy is not "minimum_norm".
    """
    samples = sorted({one.sample for one in found})
    parameters = sorted({one.parameter for one in found if one.parameter is not None})
    first = found[0]
    if parameters:
        what = (
            f"the derivative with respect to {', '.join(map(repr, parameters))} is not unique for "
            f"samples {name_samples(samples)}: active constraints depend on each other"
        )
        advice = (
            "State each constraint once, make the copies from one tensor, or leave the parameter "
            "without requires_grad"
        )
    else:
        what = (
            f"the solution of samples {name_samples(samples)} is not unique, and the loss depends on "
            f"what it leaves open"
        )
        advice = "Add curvature to the objective, or a loss that is the same for all solutions"
    message = f"{subject}: {what} (sample {first.sample}: {first.rows})."
    act(
        "warn" if config.policy == "minimum_norm" else "raise",
        samples,
        raised=(
            DegenerateError,
            f"{message} {advice}; or accept the minimum-norm gradient with "
            f"degeneracy.policy: minimum_norm.",
        ),
        warned=(DegenerateWarning, f"{message} Their gradient is the minimum-norm one."),
    )


def check_uniqueness(
    updated: Tensor,
    parameters: Sequence[Tensor],
    null_vector: Tensor,
    config: DegeneracyConfig,
    subject: str,
) -> None:
    """Test for singular samples whether the gradient Ψᵀv depends on the choice of v.

    Args:
        updated: U(z*, θ) on the graph. Shape (B, s).
        parameters: The tensors that need a gradient.
        null_vector: See :class:`AdjointSolution`; nonzero rows are the singular samples.
        config: The policy: only "minimum_norm" accepts a gradient that is not unique.
        subject: How messages name the fold.

    Raises:
        DegenerateError: If the gradient is not unique and the policy is not "minimum_norm".
    """
    singular = torch.nonzero(null_vector.abs().amax(-1)).flatten().tolist()
    ambiguous = [i for i in singular if _has_effect(updated, parameters, null_vector, i)]
    unique = [i for i in singular if i not in ambiguous]
    accepted = config.policy == "minimum_norm"
    for samples, kind in ((ambiguous, "the minimum-norm one"), (unique, "unique all the same")):
        named = f"{subject}: the adjoint system of samples {name_samples(samples)} is singular"
        act(
            "warn" if accepted or samples is unique else "raise",
            samples,
            raised=(
                DegenerateError,
                f"{named} and the gradient is not unique. Smooth the problem, or accept the "
                f"minimum-norm adjoint with degeneracy.policy: minimum_norm.",
            ),
            warned=(DegenerateWarning, f"{named}; their gradient is {kind}."),
        )


def _has_effect(
    updated: Tensor, parameters: Sequence[Tensor], null_vector: Tensor, sample: int
) -> bool:
    """Compare Ψᵀn with Ψᵀw for one sample, w being generic of the same length."""
    sizes = []
    row = null_vector[sample]
    generic = torch.linspace(1, 2, row.numel(), dtype=row.dtype, device=row.device)
    for direction in (row, generic * (row.norm() / generic.norm())):
        cotangent = torch.zeros_like(null_vector)
        cotangent[sample] = direction
        pulled = torch.autograd.grad(
            updated, parameters, cotangent, retain_graph=True, allow_unused=True
        )
        sizes.append(sum(float(g.norm()) ** 2 for g in pulled if g is not None) ** 0.5)
    return bool(sizes[0] > _UNIQUE * sizes[1])
