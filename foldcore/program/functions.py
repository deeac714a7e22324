"""Batched values and derivatives of a function that the user wrote for one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..portable import PortableFunction

SampleFunction = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""(x of shape (n,), params of one sample) -> a scalar, or a vector of shape (m,)."""


class BatchedFunction:
    """A per-sample function with its parameters bound, evaluated on batches by torch.func.vmap.

    Invariant: row i of every result depends on row i of x and of the batched parameters alone.

    Args:
        function: Written for one sample.
        params: Values by name; shared by the batch or with a leading batch dimension.
        batched: Names of those that have one.
    """

    def __init__(
        self, function: SampleFunction, params: Mapping[str, Tensor], batched: frozenset[str]
    ) -> None:
        self._function = function
        self._params = dict(params)
        self._dims = {name: 0 if name in batched else None for name in self._params}

    def __getstate__(self) -> dict[str, Any]:
        # Wrapped functions are closures, which the standard pickle refuses.
        return {**vars(self), "_function": PortableFunction(self._function)}

    def sample(self, index: int) -> BatchedFunction:
        """Return the function of one sample, as a batch of 1."""
        return self.converted(lambda value, batched: value[index : index + 1] if batched else value)

    def converted(self, convert: Callable[[Tensor, bool], Tensor]) -> BatchedFunction:
        """Return the function with ``convert(value, is_batched)`` in place of every parameter."""
        params = {name: convert(v, self._dims[name] == 0) for name, v in self._params.items()}
        return BatchedFunction(
            self._function, params, frozenset(n for n, dim in self._dims.items() if dim == 0)
        )

    def wrapped(
        self,
        wrap: Callable[[SampleFunction], SampleFunction],
        extra: Mapping[str, tuple[Tensor, bool]],
    ) -> BatchedFunction:
        """Return ``wrap(function)`` with the same parameters and further ones.

        Args:
            extra: Value and whether it is batched, by name.
        """
        values = {name: value for name, (value, _) in extra.items()}
        batched = {name for name, dim in self._dims.items() if dim == 0}
        batched |= {name for name, (_, is_batched) in extra.items() if is_batched}
        return BatchedFunction(wrap(self._function), {**self._params, **values}, frozenset(batched))

    def _map(self, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        dims: tuple[Any, ...] = (*(0 for _ in arguments), self._dims)
        mapped: Callable[..., Tensor] = torch.func.vmap(function, in_dims=dims)
        return mapped(*arguments, self._params)

    def value(self, x: Tensor) -> Tensor:
        """Return f(x). Shapes (B, n) -> (B,) or (B, m)."""
        return self._map(self._function, x)

    def jacobian(self, x: Tensor) -> Tensor:
        """Return ∂f/∂x. Shapes (B, n) -> (B, n) for a scalar function, else (B, m, n)."""
        derivative: Callable[..., Tensor] = torch.func.jacrev(self._function)
        return self._map(derivative, x)

    def hessian(self, x: Tensor) -> Tensor:
        """Return ∂²f/∂x² of a scalar function. Shapes (B, n) -> (B, n, n)."""
        derivative: Callable[..., Tensor] = torch.func.hessian(self._function)
        return self._map(derivative, x)

    def hessian_product(self, x: Tensor, tangent: Tensor) -> Tensor:
        """Return ∂²f/∂x²·t of a scalar function. Shapes (B, n), (B, n) -> (B, n)."""

        def product(point: Tensor, direction: Tensor, params: Mapping[str, Tensor]) -> Tensor:
            gradient = torch.func.grad(self._function)
            value: Tensor = torch.func.jvp(lambda p: gradient(p, params), (point,), (direction,))[1]
            return value

        return self._map(product, x, tangent)

    def weighted_hessian(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return Σ_i w_i ∂²f_i/∂x² of a vector function. Shapes (B, n), (B, m) -> (B, n, n)."""

        def curvature(point: Tensor, weight: Tensor, params: Mapping[str, Tensor]) -> Tensor:
            def weighted(p: Tensor) -> Tensor:
                return (weight * self._function(p, params)).sum()

            value: Tensor = torch.func.hessian(weighted)(point)
            return value

        return self._map(curvature, x, weights)
