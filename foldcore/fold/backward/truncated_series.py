"""Watch the backward pass of fixed-point unfolding: a truncated Neumann series, and its remainder.

K steps from the fixed point give Ψᵀv with v = g + Φᵀg + … + (Φᵀ)^{K-1}g (Kotary, Dinh, Fioretto,
equation (24)). What arrives at the starting point, (Φᵀ)^K g, is exactly the residual
g - (I - Φᵀ)v: it costs one more product and tells whether the series converges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...errors import AdjointError, AdjointWarning, name_samples
from ...interfaces.rule import BoundRule
from ..call.policy import act
from ..parts import Parts
from .iterates import Iterates

_DRIFT = 1e-3
"""Relative distance from the solution at which steps that should rest there have left it."""
_GROWTH = 10.0
"""A remainder this many times the cotangent cannot be a transient of a useful series."""


@dataclass
class SeriesWatch:
    """Carries ‖g‖ from the end of the steps to their start within one backward pass.

    Args:
        report: Called with the remainder's norm and with which samples diverge, both (B,).
    """

    report: Callable[[Tensor, Tensor], None]
    size: Tensor | None = None

    def start(self, state: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Return the state that the steps start from: its cotangent is the remainder.

        The node hangs on the parameters, though it gives them nothing: a backward pass that asks for
        their gradients alone would else leave it out.
        """
        result: Tensor = _Start.apply(self, state.detach(), *parameters)  # type: ignore[no-untyped-call]
        return result

    def end(self, state: Tensor) -> Tensor:
        """Return the state that the steps ended at, unchanged."""
        result: Tensor = _End.apply(state, self)  # type: ignore[no-untyped-call]
        return result


class _End(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state: Tensor, watch: SeriesWatch) -> Tensor:
        ctx.watch = watch
        return state.view_as(state)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        ctx.watch.size = cotangent.detach().norm(dim=-1)
        return cotangent, None


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, watch: SeriesWatch, state: Tensor, *parameters: Tensor) -> Tensor:
        ctx.watch, ctx.count = watch, len(parameters)
        return state.clone()

    @staticmethod
    def backward(ctx: Any, remainder: Tensor) -> tuple[None, ...]:
        size = ctx.watch.size
        if size is not None:
            norm = remainder.detach().norm(dim=-1)
            ctx.watch.report(norm, ~(norm <= _GROWTH * size))
        return (None, None, *(None for _ in range(ctx.count)))


def unfold_series(
    parts: Parts, bound: BoundRule, state: Tensor, needing_grad: tuple[Tensor, ...]
) -> Tensor:
    """Run steps on the graph from the solution, and watch their backward pass. Shape (B, s).

    Args:
        state: z*. Shape (B, s).
        needing_grad: The tensors that require a gradient.

    Raises:
        AdjointError: If samples diverge, in value here or later in the backward pass, and the policy
            is "raise".
    """
    watch = SeriesWatch(partial(_report_series, parts))
    start = watch.start(state, needing_grad)
    end = Iterates(bound).run(start, parts.config.iterations)
    _report_drift(parts, state, end.detach())
    return watch.end(end)


def _report_series(parts: Parts, remainder: Tensor, diverging: Tensor) -> None:
    """Act on samples for which the steps' backward pass grows instead of converging."""
    _act_on_divergence(parts, diverging, f"remainder {float(remainder.max()):.1e}")


def _report_drift(parts: Parts, state: Tensor, end: Tensor) -> None:
    """Act on samples that the steps have moved away from the solution they started at."""
    if not state.shape[-1]:
        return
    drift = (end - state).abs().amax(-1) / (1 + state.abs().amax(-1))
    _act_on_divergence(parts, ~(drift <= _DRIFT), f"drift {float(drift.max()):.1e}")


def _act_on_divergence(parts: Parts, diverging: Tensor, what: str) -> None:
    if not bool(diverging.any()):
        return
    samples = torch.nonzero(diverging).flatten().tolist()
    message = (
        f"{parts.subject}: fixed_point_unfold diverges for samples {name_samples(samples)}: {what} "
        f"after {parts.config.iterations} steps, so ρ(Φ) >= 1. Use mode: fold with gmres or direct, or "
        f"another step of the rule."
    )
    act(
        parts.config.on_adjoint_failure,
        samples,
        raised=(AdjointError, message),
        warned=(AdjointWarning, message),
    )
