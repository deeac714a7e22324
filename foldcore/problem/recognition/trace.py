"""Prove by tracing, never by sampling, that a function is a polynomial in x and of which degree.

The function runs once on tensors that have a shape but no data; each knows the degrees in x it can
have and the parameters on which the coefficients of each degree depend (abstract interpretation).
Whatever is not known to preserve that knowledge ends the trace with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...program.functions import SampleFunction
from .degrees import CONSTANT, Traced
from .tracer import LEAK, Tracer, raised, to_meta


@dataclass(frozen=True)
class Polynomial:
    """Proof that a function is a polynomial in x.

    Attributes:
        degree: The highest degree that can be present; the true one may be lower (cancellation).
        parts: Degree that can be present -> names of the parameters on which the coefficients of
            that degree can depend. A degree that is missing is absent for all values.
        shape: Shape of the function's value for one sample.
    """

    degree: int
    parts: Mapping[int, frozenset[str]]
    shape: tuple[int, ...]

    def depends(self, degree: int) -> frozenset[str]:
        """Return the parameters on which the coefficients of this degree can depend."""
        return self.parts.get(degree, frozenset())


@dataclass(frozen=True)
class NotPolynomial:
    """No proof was found.

    Attributes:
        reason: Completes the sentence "the function …", for instance "applies abs to x".
    """

    reason: str


def sample_like(n: int, params: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Return x = 0, (n,), in the dtype and on the device of the first floating parameter.

    Args:
        n: Number of variables.
        params: Values by name.
        dtype: Replaces the parameters' dtype; without either it is float64.
    """
    for value in params.values():
        if value.is_floating_point():
            return torch.zeros(n, dtype=dtype or value.dtype, device=value.device)
    return torch.zeros(n, dtype=dtype or torch.float64)


def trace(
    function: SampleFunction,
    n: int,
    params: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
) -> Polynomial | NotPolynomial:
    """Decide whether a function is provably a polynomial in x.

    Invariant: the answer depends on the shapes and dtypes of the parameters, not on their values,
    and a :class:`Polynomial` is never wrong, provided that the function is deterministic and
    reads nothing that changes beside its arguments.

    Args:
        function: (x, params) of one sample -> scalar, vector or Python number.
        n: Number of variables.
        params: Values of one sample, by name.
        dtype: dtype of x; see :func:`sample_like`.

    Raises:
        Exception: What the function itself raises on plain tensors at x = 0, unchanged.
    """
    x = sample_like(n, params, dtype)
    random_state = torch.get_rng_state()
    plain = function(x, dict(params))
    tracer = Tracer(x.device)
    traced = {name: Traced.wrap(to_meta(p), {0: frozenset({name})}) for name, p in params.items()}
    variable = Traced.wrap(to_meta(x), {1: frozenset()})
    try:
        with torch.enable_grad(), tracer:
            value = function(variable, traced)
    # The function may raise anything on tensors without data, and the reason is what is asked for.
    except Exception as error:
        return NotPolynomial(tracer.refusal or raised(error))
    if tracer.refusal is not None:
        return NotPolynomial(tracer.refusal)
    if not torch.equal(random_state, torch.get_rng_state()):
        return NotPolynomial("draws random numbers")
    return _read_result(value, plain)


def _read_result(value: object, plain: object) -> Polynomial | NotPolynomial:
    if isinstance(value, (int, float)) and isinstance(plain, (int, float)):
        return Polynomial(0, dict(CONSTANT), ())
    if not isinstance(value, Tensor) or not isinstance(plain, Tensor):
        kinds = f"{type(plain).__name__}, {type(value).__name__} when traced"
        return NotPolynomial(f"does not return a tensor or number (a {kinds})")
    tensor = value.payload if isinstance(value, Traced) else value
    if tensor is value and tensor.is_meta:
        return NotPolynomial(LEAK)
    if (tensor.shape, tensor.dtype) != (plain.shape, plain.dtype):
        return NotPolynomial("has a value whose shape or dtype depends on data")
    parts = value.parts if isinstance(value, Traced) else CONSTANT
    return Polynomial(max(parts), dict(sorted(parts.items())), tuple(plain.shape))
