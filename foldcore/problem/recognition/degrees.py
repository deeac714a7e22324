"""The parts of a traced tensor: its degrees in x and the parameters that each depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Parts = Mapping[int, frozenset[str]]
"""Degree in x that can be present -> names of the parameters its coefficients depend on."""

CONSTANT: Parts = {0: frozenset()}
MAX_DEGREE = 64


class RefusalError(Exception):
    """Ends a trace without a proof, and never leaves it; the text completes "the function …"."""


class Traced(Tensor):
    """A tensor on the meta device that knows its parts; it has a shape and a dtype, but no data.

    Invariant: whatever bypasses the trace sees a meta tensor, which has no value to leak, and an
    inference tensor, to which torch refuses to write.
    """

    payload: Tensor
    parts: Parts

    @staticmethod
    def wrap(payload: Tensor, parts: Parts) -> Traced:
        """Attach parts to a plain meta tensor."""
        with torch.inference_mode():
            payload = payload.clone()
            traced = payload.as_subclass(Traced)
        traced.payload = payload
        traced.parts = parts
        return traced

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RefusalError(f"lets a traced tensor escape into {func!r}")


def union(*parts: Parts) -> Parts:
    """Return the parts of a sum."""
    merged: dict[int, frozenset[str]] = {}
    for part in parts:
        for degree, names in part.items():
            merged[degree] = merged.get(degree, frozenset()) | names
    return merged


def product(left: Parts, right: Parts) -> Parts:
    """Return the parts of a product: degrees add, names unite."""
    result: dict[int, frozenset[str]] = {}
    for i, left_names in left.items():
        for j, right_names in right.items():
            result[i + j] = result.get(i + j, frozenset()) | left_names | right_names
    if max(result) > MAX_DEGREE:
        raise RefusalError(f"has a degree above {MAX_DEGREE} in x")
    return result


def leaves(value: Any) -> Iterator[Any]:
    """Yield what lies in tuples, lists, dicts and slices."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    elif isinstance(value, slice):
        yield from leaves([value.start, value.stop, value.step])
    else:
        yield value


def touches_x(parts: Parts) -> bool:
    """Return whether a positive degree can be present."""
    return max(parts) > 0


def subject(values: Any) -> str:
    """Return ``"x"``, or the parameters by name, for a message."""
    parts = union(CONSTANT, *(v.parts for v in leaves(values) if isinstance(v, Traced)))
    if touches_x(parts):
        return "x"
    names = ", ".join(repr(name) for name in sorted(parts[0]))
    return f"parameter {names}" if names else "a traced constant"
