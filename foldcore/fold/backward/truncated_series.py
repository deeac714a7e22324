"""Watch the backward pass of fixed-point unfolding: a truncated Neumann series, and its remainder.

K steps from the fixed point give Ψᵀv with v = g + Φᵀg + … + (Φᵀ)^{K-1}g (Kotary, Dinh, Fioretto,
equation (24)). What arrives at the starting point, (Φᵀ)^K g, is exactly the residual
g - (I - Φᵀ)v: it costs one more product and tells whether the series converges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
