"""Apply the two certificates: attach them, reject what they reject, act on what they doubt."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from .certificate import kkt_report
from .config import FixedPointConfig, KKTConfig, Policy
from .errors import CertificateError, CertificateWarning, name_samples
from .lowering import Lowering
from .outcome import Outcome
from .solution import KKTReport, Solution, Status


def certify(
    lowering: Lowering, raw: Solution, outcome: Outcome, config: KKTConfig, subject: str
) -> Solution:
    """Attach certificate (a) and turn samples that it rejects into failures.

    Args:
        lowering: The bound problem.
        raw: A solver's answer; its duals are recovered where it has none.
        outcome: Receives the rejected samples.
        config: Tolerances, floored by the dtype, and the policy.
        subject: How messages name the fold.

    Raises:
        CertificateError: If ``config.on_violation`` is "raise" and a sample exceeds ``config.atol``.
    """
    point = lowering.complete(raw.primal)
    report, duals = kkt_report(lowering.program, point, raw.duals)
    if outcome.failed:
        report = _without(report, outcome.mask(point.device))
    certified = replace(raw, primal=point, duals=duals, kkt=report)
    eps = torch.finfo(point.dtype).eps
    reject_above, atol = max(config.reject_above, 1e5 * eps), max(config.atol, 1e4 * eps)
    residual = report.residual
    if bool((residual <= min(reject_above, atol)).all()):
        return certified
    rejected = ~(residual <= reject_above)
    if bool(rejected.any()):
        _name_rejected(report, rejected, outcome)
    exceeded = residual > atol
    _act_on(
        config.on_violation,
        exceeded & ~outcome.mask(point.device),
        residual,
        f"{subject}: scaled KKT residual above kkt.atol",
        "Tighten the solver's tolerances, set fixed_point.polish, or loosen kkt.atol.",
    )
    return certified


def _without(report: KKTReport, failed: Tensor) -> KKTReport:
    """Return the report with NaN for failed samples: their rows are those of a placeholder."""
    return KKTReport(
        **{
            name: value & ~failed
            if value.dtype == torch.bool
            else torch.where(failed, float("nan"), value)
            for name, value in vars(report).items()
        }
    )


def _name_rejected(report: KKTReport, rejected: Tensor, outcome: Outcome) -> None:
    for i in torch.nonzero(rejected).flatten().tolist():
        outcome.fail_one(
            i,
            Status.INACCURATE,
            f"KKT residual: stationarity {float(report.stationarity[i]):.1e}, "
            f"primal {float(report.primal[i]):.1e}, dual {float(report.dual[i]):.1e}, "
            f"complementarity {float(report.complementarity[i]):.1e}",
        )


def check_fixed_point(
    residual: Tensor, state: Tensor, outcome: Outcome, config: FixedPointConfig, subject: str
) -> None:
    """Act on samples whose certificate (b) exceeds ``config.atol``.

    Args:
        residual: ‖U(z) - z‖∞ / step. Shape (B,).
        state: z. Shape (B, s).

    Raises:
        CertificateError: If ``config.on_violation`` is "raise" and a sample exceeds it.
    """
    atol = max(config.atol, 1e4 * torch.finfo(state.dtype).eps)
    scaled = residual / (1 + state.abs().amax(-1)) if state.shape[-1] else residual
    _act_on(
        config.on_violation,
        ~(scaled <= atol) & ~outcome.mask(state.device),
        scaled,
        f"{subject}: the solution is not a fixed point of the update rule: residual above "
        f"fixed_point.atol",
        "Tighten the solver's tolerances or set fixed_point.polish; if the residual stays, rule "
        "and solver disagree about the problem.",
    )


def _act_on(policy: Policy, exceeded: Tensor, residual: Tensor, what: str, advice: str) -> None:
    if policy == "ignore" or not bool(exceeded.any()):
        return
    samples = torch.nonzero(exceeded).flatten().tolist()
    worst = float(residual[exceeded].max())
    message = f"{what} for {len(samples)} samples ({name_samples(samples)}): {worst:.1e}. {advice}"
    if policy == "raise":
        raise CertificateError(message, samples)
    warnings.warn(message, CertificateWarning, stacklevel=6)
