"""The four ways to differentiate one and the same configuration (Kotary, Dinh, Fioretto, figure 1).

fold                one step at the solution, its adjoint solved as a linear system
fixed_point_unfold  K steps on the graph, started at the solution: K products of linear fixed-point
                    iteration on the same system, v_{K-1} of equation (25)
unfold              K steps on the graph from a starting point; inner problems are folds
unroll              likewise, with inner problems unrolled too
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..interfaces.fixed_point_operator import FixedPointOperator
from ..interfaces.rule import BoundRule


def one_step(bound: BoundRule, state: Tensor) -> tuple[Tensor, FixedPointOperator]:
    """Evaluate one step of a rule on the graph and return it with its Jacobian Φ.

    Args:
        state: z*, detached. Shape (B, s).
    """
    known = bound.jacobian(state)
    if known is not None:
        return bound.step(state), known
    leaf = state.detach().requires_grad_(torch.is_grad_enabled())
    updated = bound.step(leaf)
    return updated, RecordedStep(leaf, updated)


def linearise(bound: BoundRule, state: Tensor) -> FixedPointOperator:
    """Return Φ of a rule at a state (B, s), detached from everything else."""
    with torch.enable_grad():
        return one_step(bound, state.detach())[1]


class RecordedStep(FixedPointOperator):
    """Φ at a fixed point from one recorded step: products by autograd through its graph.

    Args:
        state: z*, a leaf that requires grad. Shape (B, s).
        updated: U(z*), recorded from ``state``. Shape (B, s).
    """

    def __init__(self, state: Tensor, updated: Tensor) -> None:
        self._state, self._updated = state, updated
        self.batch, self.size = state.shape
        self.dtype, self.device = state.dtype, state.device
        self.zero = not updated.requires_grad

    def vjp(self, cotangent: Tensor) -> Tensor:
        if self.zero:
            return torch.zeros_like(cotangent)
        (product,) = torch.autograd.grad(
            self._updated,
            self._state,
            cotangent,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return product

    def jvp(self, tangent: Tensor) -> Tensor:
        # Φt is the derivative of u -> <Φᵀu, t>, which is linear in u.
        if self.zero:
            return torch.zeros_like(tangent)
        probe = torch.zeros_like(tangent, requires_grad=True)
        (pulled,) = torch.autograd.grad(
            self._updated,
            self._state,
            probe,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        if not pulled.requires_grad:
            return torch.zeros_like(tangent)
        try:
            (product,) = torch.autograd.grad(pulled, probe, tangent, retain_graph=True)
        except RuntimeError as error:
            raise UnsupportedError(
                "jvp: a part of this update rule (an inner solver or fold) can be differentiated "
                "only once; use an adjoint solver that needs vjp alone."
            ) from error
        return product
