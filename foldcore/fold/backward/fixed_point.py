"""The one autograd node: the implicit function theorem at a fixed point, and nothing else.

At z* = U(z*, θ) with Φ = ∂U/∂z and Ψ = ∂U/∂θ, a cotangent g of z* becomes Ψᵀv with
(I - Φᵀ) v = g (Kotary, Dinh, Fioretto, equations (26) and (27)). The node takes one evaluated step
of U, which autograd has recorded down to θ, and hands v to it: autograd itself applies Ψᵀ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedError


class _FixedPoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, updated: Tensor, state: Tensor, adjoint: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.adjoint = adjoint
        ctx.save_for_backward(updated)
        return state.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        differentiable = torch.is_grad_enabled()
        with torch.no_grad():
            adjoint = ctx.adjoint(cotangent)
        if differentiable:
            # In a double backward Ψᵀv depends on θ through v and z* too, which are not on its graph:
            # the second derivative would lack their terms without a word.
            (updated,) = ctx.saved_tensors
            adjoint = _Once.apply(adjoint, updated)  # type: ignore[no-untyped-call]
        return adjoint, None, None


class _Once(torch.autograd.Function):
    """v, as something that depends on what U(z*, θ) depends on; its derivative is an error."""

    @staticmethod
    def forward(ctx: Any, adjoint: Tensor, updated: Tensor) -> Tensor:
        return adjoint.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        raise UnsupportedError(
            "foldcore: a second derivative through a folded layer was asked for; folds have first "
            "derivatives only. Leave out create_graph=True, or use mode: unfold."
        )


def attach_fixed_point(
    updated: Tensor, state: Tensor, adjoint: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the value of ``state`` with the gradient of the fixed point.

    Invariant: the gradient of the result with respect to θ is Ψᵀ·adjoint(g), where Ψ belongs to the
    one step that ``updated`` records.

    Args:
        updated: U(z*, θ) with its graph. Shape (B, s).
        state: z*. Shape (B, s).
        adjoint: g -> v, both (B, s). It may hold references to ``updated``: nothing downstream of
            the node is referenced, so no cycle arises.
    """
    result: Tensor = _FixedPoint.apply(updated, state.detach(), adjoint)  # type: ignore[no-untyped-call]
    return result
