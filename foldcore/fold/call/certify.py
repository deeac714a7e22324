"""Apply the two certificates: attach them, reject what they reject, act on what they doubt."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...config import FixedPointConfig, KKTConfig, Policy
from ...errors import CertificateError, CertificateWarning, name_samples
from ...optimality.kkt import kkt_report
from ...program.lowering import Lowering
from ...solution import KKTReport, Solution, Status
from .policy import act
from .verdicts import Verdicts


def measure(lowering: Lowering, raw: Solution, verdicts: Verdicts) -> Solution:
    """Attach certificate (a) without acting on it; NaN for failed samples.

    Args:
        lowering: The bound problem.
        raw: An answer; its duals are recovered where it has none.
        verdicts: Tells which samples have failed.
    """
    point = lowering.complete(raw.primal) if lowering.changes else raw.primal
    report, duals = kkt_report(lowering.program, point, raw.duals)
    if not verdicts.clean:
        report = _without(report, verdicts.mask(point.device))
    return replace(raw, primal=point, duals=duals, kkt=report)


def reject(report: KKTReport, verdicts: Verdicts, config: KKTConfig) -> None:
    """Turn samples whose certificate (a) exceeds ``config.reject_above`` into failures."""
    residual = report.residual
    rejected = ~(residual <= max(config.reject_above, 1e5 * torch.finfo(residual.dtype).eps))
    if bool(rejected.any()):
        _name_rejected(report, rejected, verdicts)


def check_kkt(report: KKTReport, verdicts: Verdicts, config: KKTConfig, subject: str) -> None:
    """Act on samples that have not failed and whose certificate (a) exceeds ``config.atol``.

    Args:
        config: Tolerances, floored by the dtype, and the policy.
        subject: How messages name the fold.

    Raises:
        CertificateError: If ``config.on_violation`` is "raise" and there are some.
    """
    residual = report.residual
    exceeded = residual > _kkt_tolerance(config, residual)
    if not bool(exceeded.any()):
        return
    _act_on(
        config.on_violation,
        exceeded & ~verdicts.mask(residual.device),
        residual,
        f"{subject}: scaled KKT residual above kkt.atol",
        "Tighten the solver's tolerances, set or raise fixed_point.polish, or loosen kkt.atol.",
    )


def certify(
    lowering: Lowering, raw: Solution, verdicts: Verdicts, config: KKTConfig, subject: str
) -> Solution:
    """Attach certificate (a), reject, and act on doubt: :func:`measure`, :func:`reject`, :func:`check_kkt`.

    Raises:
        CertificateError: As of :func:`check_kkt`.
    """
    certified = measure(lowering, raw, verdicts)
    report = certified.kkt
    if report is None:
        return certified
    residual = report.residual
    # One look at a batch that is good in every respect.
    if not bool((residual <= min(config.reject_above, _kkt_tolerance(config, residual))).all()):
        reject(report, verdicts, config)
        check_kkt(report, verdicts, config, subject)
    return certified


def _kkt_tolerance(config: KKTConfig, residual: Tensor) -> float:
    return max(config.atol, 1e4 * torch.finfo(residual.dtype).eps)


def _without(report: KKTReport, failed: Tensor) -> KKTReport:
    """Return the report with NaN for failed samples: their rows are those of a placeholder."""
    return report.map(
        lambda value: (
            value & ~failed
            if value.dtype == torch.bool
            else torch.where(failed, float("nan"), value)
        )
    )


def _name_rejected(report: KKTReport, rejected: Tensor, verdicts: Verdicts) -> None:
    for i in torch.nonzero(rejected).flatten().tolist():
        verdicts.fail_one(
            i,
            Status.INACCURATE,
            f"KKT residual: stationarity {float(report.stationarity[i]):.1e}, "
            f"primal {float(report.primal[i]):.1e}, dual {float(report.dual[i]):.1e}, "
            f"complementarity {float(report.complementarity[i]):.1e}",
        )


def check_fixed_point(
    residual: Tensor, state: Tensor, verdicts: Verdicts, config: FixedPointConfig, subject: str
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
    held = scaled <= atol
    if bool(held.all()):
        return
    _act_on(
        config.on_violation,
        ~held & ~verdicts.mask(state.device),
        scaled,
        f"{subject}: the solution is not a fixed point of the update rule: residual above "
        f"fixed_point.atol",
        "Tighten the solver's tolerances or set fixed_point.polish; if the residual stays, rule "
        "and solver disagree about the problem.",
    )


def check_saddles(
    saddles: Tensor | None, verdicts: Verdicts, config: KKTConfig, subject: str
) -> None:
    """Act on samples whose second-order condition fails: certificate (c).

    Args:
        saddles: Shape (B,), bool; see :meth:`foldcore.BoundRule.saddles`.

    Raises:
        CertificateError: If ``config.on_violation`` is "raise" and there are some.
    """
    if saddles is None or not bool(saddles.any()):
        return
    samples = torch.nonzero(saddles & ~verdicts.mask(saddles.device)).flatten().tolist()
    message = (
        f"{subject}: {len(samples)} samples ({name_samples(samples)}) are a saddle or a maximum: the "
        f"Hessian of the Lagrangian has negative curvature along the active constraints. Start the "
        f"solver elsewhere, or use one that finds local minima."
    )
    act(
        config.on_violation,
        samples,
        raised=(CertificateError, message),
        warned=(CertificateWarning, message),
    )


def _act_on(policy: Policy, exceeded: Tensor, residual: Tensor, what: str, advice: str) -> None:
    if policy == "ignore" or not bool(exceeded.any()):
        return
    samples = torch.nonzero(exceeded).flatten().tolist()
    worst = float(residual[exceeded].max())
    message = f"{what} for {len(samples)} samples ({name_samples(samples)}): {worst:.1e}. {advice}"
    act(policy, samples, raised=(CertificateError, message), warned=(CertificateWarning, message))
