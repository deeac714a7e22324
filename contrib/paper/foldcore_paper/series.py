"""The paper's series for the adjoint, written out: equations (24), (25) and (27), product by product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import foldcore as fc


def series_gradients(
    layer: fc.Fold, params: Mapping[str, Any], cotangent: Tensor, length: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the gradients that v_0, v_1, … give: v_0 = g and v_j = Φᵀv_{j-1} + g.

    Nothing checks or stops it: where ρ(Φ) >= 1 the gradients explode, as the paper's appendix D says.

    Args:
        layer: A layer whose rule needs no inner fold.
        params: One tensor (B, *shape) per parameter, by name.
        cotangent: dL/dx*. Shape (B, n).
        length: Largest j.

    Yields:
        ``length + 1`` times, one tensor (B, *shape) per parameter, in the order of ``params``.
    """
    if layer.rule is None:
        raise TypeError("series_gradients: the layer has no update rule.")
    with torch.no_grad():
        solution = layer.solve(**params)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    program = layer.problem.bind({**layer.problem.constants, **leaves}, len(cotangent))
    bound = layer.rule.bind(program, {})
    state = bound.lift(solution).detach().requires_grad_()
    bound = bound.at(state.detach())
    inputs = list(leaves.values())
    # Both products may share what bind() computed, so each keeps the graph for the other.
    in_state, *direct = torch.autograd.grad(
        bound.primal(state), (state, *inputs), cotangent,
        retain_graph=True, allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    updated = bound.step(state)
    adjoint = in_state
    for _ in range(length + 1):
        product, *images = torch.autograd.grad(
            updated, (state, *inputs), adjoint, retain_graph=True, allow_unused=True, materialize_grads=True
        )  # fmt: skip
        yield tuple(one + image for one, image in zip(direct, images, strict=True))
        adjoint = product + in_state
