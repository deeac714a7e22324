"""Quadratic data out of recognised functions: constants once, what varies by torch.func per call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...program.user_function import UserFunction
from .coefficients import (
    Coefficients,
    Params,
    Recognised,
    quadratic_coefficients,
    recognise_scalar,
    recognise_vector,
    row_coefficients,
)
from .trace import NotPolynomial


@dataclass(frozen=True)
class Piece:
    """One field of quadratic data that a function contributes.

    Attributes:
        field: Name in :class:`QuadraticData`.
        depends: Parameters that it depends on; empty for a constant.
        compute: Its value from the parameters of one sample.
        needs: Parameters that ``compute`` is called with.
    """

    field: str
    depends: frozenset[str]
    compute: Callable[[Params], Tensor]
    needs: frozenset[str]

    def value(self, values: Params, batched: frozenset[str]) -> Tensor:
        """Return the field, shared or (B, …) where it depends on a batched parameter."""
        params = {name: values[name] for name in self.needs}
        if not (self.depends & batched):
            # Batched parameters that the field does not depend on may take any sample's value.
            sample = {k: v[0] if k in batched else v for k, v in params.items()}
            return self.compute(sample)
        dims = {name: 0 if name in batched else None for name in params}
        mapped: Callable[[Params], Tensor] = torch.func.vmap(self.compute, in_dims=(dims,))
        return mapped(params)


@dataclass(frozen=True)
class Extracted:
    """A function as quadratic data.

    Attributes:
        pieces: Its fields.
        affine_rows, curved_rows: For constraints: which rows went to (G, h) and to quadratic rows.
        proven: False where the user asserted the structure and no proof was found.
    """

    pieces: tuple[Piece, ...]
    affine_rows: tuple[int, ...] = ()
    curved_rows: tuple[int, ...] = ()
    proven: bool = True


def extract(
    function: UserFunction, n: int, example: Params, asserted: bool
) -> Extracted | NotPolynomial:
    """Extract the data of an objective, inequality or equality of degree <= 2.

    Args:
        function: The function; its role decides the fields.
        n: Number of variables.
        example: Values of one sample for every parameter, by name.
        asserted: The user vouches for the structure: extract without proof, to be compared with
            the function at every returned point.
    """
    needs = function.parameter_names
    params = {name: example[name] for name in needs}
    recognise = recognise_scalar if function.role == "objective" else recognise_vector
    found = recognise(function, n, params, dtype=torch.float64)
    proven = isinstance(found, Recognised)
    if isinstance(found, NotPolynomial):
        if not asserted:
            return found
        found = _assumed(function, n, params)
    if function.role == "objective":
        return Extracted(_objective(function, n, found, needs), proven=proven)
    if function.role == "equality":
        if found.has_quadratic:
            return NotPolynomial("an equality is quadratic in x")
        pieces = _affine(function, n, found, needs, ("A", "b"))
        return Extracted(pieces, found.affine_rows, proven=proven)
    return Extracted(
        _affine(function, n, found, needs, ("G", "h")) + _curved(function, n, found, needs),
        found.affine_rows,
        found.curved_rows,
        proven,
    )


def _assumed(function: UserFunction, n: int, params: Params) -> Recognised:
    """Return the widest structure of degree <= 2; rows are told apart by a sampled Hessian."""
    everything = function.parameter_names
    value = function(torch.zeros(n, dtype=torch.float64), params)
    if value.ndim == 0:
        return Recognised((), True, everything, everything, everything)
    hessians = Coefficients(function, n, dtype=torch.float64).quadratic(params).detach()
    nonzero = (hessians != 0).flatten(1).any(1).tolist()
    curved = tuple(i for i, flag in enumerate(nonzero) if flag)
    affine = tuple(i for i, flag in enumerate(nonzero) if not flag)
    shape = tuple(value.shape)
    return Recognised(shape, bool(curved), everything, everything, everything, curved, affine)


def _objective(
    function: UserFunction, n: int, found: Recognised, needs: frozenset[str]
) -> tuple[Piece, ...]:
    parts = quadratic_coefficients(function, n)
    linear = Piece("q", found.linear_depends, parts.linear, needs)
    if not found.has_quadratic:
        return (linear,)
    return (Piece("P", found.quadratic_depends, parts.quadratic, needs), linear)


def _affine(
    function: UserFunction,
    n: int,
    found: Recognised,
    needs: frozenset[str],
    fields: tuple[str, str],
) -> tuple[Piece, ...]:
    if not found.affine_rows:
        return ()
    parts = row_coefficients(function, n, rows=found.affine_rows)
    return (
        Piece(fields[0], found.linear_depends, parts.linear, needs),
        Piece(fields[1], found.constant_depends, lambda p: -parts.constant(p), needs),
    )


def _curved(
    function: UserFunction, n: int, found: Recognised, needs: frozenset[str]
) -> tuple[Piece, ...]:
    if not found.curved_rows:
        return ()
    parts = row_coefficients(function, n, rows=found.curved_rows)
    return (
        Piece("quadratic_P", found.quadratic_depends, parts.quadratic, needs),
        Piece("quadratic_q", found.linear_depends, parts.linear, needs),
        Piece("quadratic_r", found.constant_depends, lambda p: -parts.constant(p), needs),
    )


def constant_values(role: str, extracted: Extracted, example: Params) -> Mapping[str, Tensor]:
    """Return the fields that depend on no parameter, by the name of their constant."""
    return {
        f"{role}.{piece.field}": piece.value(example, frozenset()).detach()
        for piece in extracted.pieces
        if not piece.depends
    }
