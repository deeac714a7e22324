"""Prove by tracing that a function is a sum of functions of single variables: its Hessian is diagonal.

The same trace as for polynomials, with another table: a value is constant in x, ENTRYWISE (a vector
of x's shape whose entry i depends on x_i alone), or SUMMED (a scalar that is a sum of such entries, times
constants). What is not known to keep to these ends the trace: no proof, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...program.functions import SampleFunction
from .degrees import CONSTANT, Parts, RefusalError, Traced, leaves
from .operations import Call, Rule, named
from .trace import sample_like
from .tracer import Tracer, to_meta

# Encoded as degrees 1 and 2, so that the trace takes both for something that touches x.
_ENTRYWISE: Parts = {1: frozenset()}
_SUMMED: Parts = {2: frozenset()}


def is_separable(function: SampleFunction, n: int, params: Mapping[str, Tensor]) -> bool:
    """Decide whether a function is provably Σ f_i(x_i), each f_i any function of its parameters.

    Invariant: True is never wrong, provided that the function is deterministic and reads nothing that
    changes beside its arguments; False says only that no proof was found.

    Args:
        function: (x, params) of one sample -> scalar.
        n: Number of variables.
        params: Values of one sample, by name; only shapes and dtypes matter.
    """
    x = sample_like(n, params, torch.float64)
    tracer = Tracer(x.device, _RULES)
    traced = {name: Traced.wrap(to_meta(value), CONSTANT) for name, value in params.items()}
    variable = Traced.wrap(to_meta(x), _ENTRYWISE)
    random_state = torch.get_rng_state()
    try:
        with torch.enable_grad(), tracer:
            value = function(variable, traced)
    # The function may raise anything on tensors without data; it has been run on real ones before.
    except Exception:
        return False
    if tracer.refusal is not None or not torch.equal(random_state, torch.get_rng_state()):
        return False
    if not isinstance(value, Traced):
        return isinstance(value, (int, float, Tensor))
    return value.payload.ndim == 0 and _kind(value) in (0, 2)


def _kind(value: Any) -> int:
    """Return 0 for a constant in x, 1 for an entrywise vector, 2 for a sum."""
    return max((max(leaf.parts) for leaf in leaves(value) if isinstance(leaf, Traced)), default=0)


def _payload(value: Any) -> Any:
    return value.payload if isinstance(value, Traced) else value


def _check_shape(entrywise: Any, other: Any) -> None:
    """Refuse a constant that would broadcast an entrywise vector to another shape."""
    shape = getattr(_payload(other), "shape", torch.Size())
    if len(shape) > 1 or (len(shape) == 1 and shape[0] not in (1, _payload(entrywise).shape[0])):
        raise RefusalError("broadcasts x")


def _operands(call: Call) -> tuple[Any, Any]:
    left = call.take(0, "input", "self")
    right = call.take(1, "other", "exponent", "tensor", "vec2", "target")
    for one, two in ((left, right), (right, left)):
        if _kind(one) == 1:
            _check_shape(one, two)
    return left, right


def _apply(call: Call) -> Parts:
    """A function of one entry."""
    if _kind(call.take(0, "input", "self")) != 1:
        raise RefusalError(f"applies {call.name} to a sum")
    return _ENTRYWISE


def _keep(call: Call) -> Parts:
    return _ENTRYWISE if _kind(call.take(0, "input", "self")) == 1 else _SUMMED


def _add(call: Call) -> Parts:
    kinds = {_kind(operand) for operand in _operands(call)}
    if kinds == {1, 2}:
        raise RefusalError("adds a sum to x")
    return _ENTRYWISE if 1 in kinds else _SUMMED


def _multiply(call: Call) -> Parts:
    left, right = _operands(call)
    kinds = (_kind(left), _kind(right))
    if 2 not in kinds:
        return _ENTRYWISE
    if sum(kinds) != 2:
        raise RefusalError("multiplies a sum with x")
    constant = right if kinds[0] == 2 else left
    if len(getattr(_payload(constant), "shape", ())) > 0:
        raise RefusalError("broadcasts a sum")
    return _SUMMED


def _divide(call: Call) -> Parts:
    left, right = _operands(call)
    if call.take(2, "rounding_mode") is not None:
        raise RefusalError("divides with rounding")
    if 2 not in (_kind(left), _kind(right)):
        return _ENTRYWISE
    if _kind(right) or len(getattr(_payload(right), "shape", ())) > 0:
        raise RefusalError("divides by a sum")
    return _SUMMED


def _combine(call: Call) -> Parts:
    """Any function of two entries of equal index."""
    if 2 in {_kind(operand) for operand in _operands(call)}:
        raise RefusalError(f"applies {call.name} to a sum")
    return _ENTRYWISE


def _total(call: Call) -> Parts:
    call.take(0, "input", "self")
    call.take(9, "dtype")
    if call.take(1, "dim", "axis") not in (None, 0, -1, (0,), (-1,), [0], [-1]):
        raise RefusalError("sums over an unknown dimension")
    if call.take(2, "keepdim") not in (None, False):
        raise RefusalError("keeps the dimension of a sum")
    return _SUMMED


def _inner(call: Call) -> Parts:
    left, right = _operands(call)
    for operand in (left, right):
        if len(getattr(_payload(operand), "shape", ())) != 1 or _kind(operand) == 2:
            raise RefusalError("multiplies x with a matrix")
    return _SUMMED


_TORCH = (torch, torch.Tensor)


def _table() -> dict[Any, Rule]:
    groups: list[tuple[Rule, Iterable[Any]]] = [
        (_apply, named(
            "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sin cos tan asin acos "
            "atan sinh cosh tanh asinh acosh atanh sigmoid erf erfc lgamma digamma abs absolute relu "
            "logit softplus __abs__", *_TORCH)),
        (_apply, named("entr expit log_ndtr ndtr erf exp2 expm1 log1p gammaln", torch.special)),
        (_apply, named("softplus sigmoid tanh relu silu logsigmoid", torch.nn.functional)),
        (_keep, named("neg negative positive clone contiguous __neg__ __pos__", *_TORCH)),
        (_add, named("add sub subtract rsub __add__ __radd__ __sub__ __rsub__", *_TORCH)),
        (_multiply, named("mul multiply __mul__ __rmul__", *_TORCH)),
        (_divide, named("div divide true_divide __truediv__ __div__", *_TORCH)),
        (_combine, named(
            "pow float_power xlogy hypot logaddexp __pow__ __rpow__ __rdiv__ __rtruediv__", *_TORCH)),
        (_combine, named("xlogy xlog1py", torch.special)),
        (_total, named("sum mean", *_TORCH)),
        (_inner, named("dot vdot inner matmul __matmul__ __rmatmul__", *_TORCH)),
    ]  # fmt: skip
    return {key: rule for rule, keys in groups for key in keys}


_RULES: Mapping[Any, Rule] = _table()
