"""Find the quadratic structure of a per-sample function and extract its coefficients.

A polynomial of degree <= 2 is f(x) = ½ xᵀHx + Jx + r with r = f(0), J = ∂f/∂x(0) and
H = ∂²f/∂x²(0): one point gives the coefficients exactly, once the degree is proven by
:func:`foldcore.polynomial.trace`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ShapeError
from ...program.functions import SampleFunction
from .trace import NotPolynomial, Polynomial, sample_like, trace

Params = Mapping[str, Tensor]

_CHUNK = 2**22
"""Most numbers of a Hessian held at once while rows are classified."""


@dataclass(frozen=True)
class Coefficients:
    """The coefficients at x = 0 of a function of degree <= 2, each as a function of the parameters.

    Invariant: f(x) = ½ xᵀ·quadratic·x + linear·x + constant. Every method is pure, takes the
    parameters of one sample, works under torch.func.vmap and is differentiable in the parameters.

    Args:
        function: Scalar, or a vector of m rows, of one sample.
        n: Number of variables.
        rows: Rows to restrict a vector function to, in this order; None keeps all.
        dtype: dtype of x; see :func:`foldcore.polynomial.sample_like`.
    """

    function: SampleFunction
    n: int
    rows: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None

    def __call__(self, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        """Return (quadratic, linear, constant)."""
        linear, constant = self.affine(params)
        return self.quadratic(params), linear, constant

    def quadratic(self, params: Params) -> Tensor:
        """Return the symmetric Hessians: (n, n) of a scalar function, else (m, n, n)."""
        hessian: Callable[[Tensor], Tensor] = torch.func.hessian(self._bound(params))
        value = hessian(self._origin(params))
        return (value + value.mT) / 2

    def affine(self, params: Params) -> tuple[Tensor, Tensor]:
        """Return (linear, constant) from one evaluation: ∂f/∂x(0), (n,) or (m, n), and f(0)."""
        function, origin = self._bound(params), self._origin(params)
        constant, pull = torch.func.vjp(function, origin)[:2]
        if constant.ndim == 0:
            return pull(torch.ones_like(constant))[0], constant
        if constant.shape[0] > self.n:
            return torch.func.jacfwd(function)(origin), constant
        identity = torch.eye(constant.shape[0], dtype=origin.dtype, device=origin.device)
        return torch.func.vmap(pull)(identity)[0], constant

    def linear(self, params: Params) -> Tensor:
        """Return the Jacobian at x = 0: (n,) of a scalar function, else (m, n)."""
        return self.affine(params)[0]

    def constant(self, params: Params) -> Tensor:
        """Return f(0): () of a scalar function, else (m,)."""
        return self._bound(params)(self._origin(params))

    def _origin(self, params: Params) -> Tensor:
        return sample_like(self.n, params, self.dtype)

    def _bound(self, params: Params) -> Callable[[Tensor], Tensor]:
        def bound(x: Tensor) -> Tensor:
            value = self.function(x, params)
            # A constant function may return a number or a tensor of integers.
            value = torch.as_tensor(value).to(dtype=x.dtype, device=x.device)
            return value if self.rows is None else value[list(self.rows)]

        return bound


def quadratic_coefficients(
    function: SampleFunction, n: int, *, dtype: torch.dtype | None = None
) -> Coefficients:
    """Return params -> (P, q, constant) of a scalar function, shapes (n, n), (n,), ()."""
    return Coefficients(function, n, dtype=dtype)


def row_coefficients(
    function: SampleFunction,
    n: int,
    *,
    rows: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
) -> Coefficients:
    """Return params -> (Hessians, J, r) of a vector function, shapes (m, n, n), (m, n), (m,)."""
    return Coefficients(function, n, rows, dtype)


@dataclass(frozen=True, eq=False)
class Recognised:
    """The proven structure of a function of degree <= 2.

    Attributes:
        shape: Shape of one sample's value: () or (m,).
        has_quadratic: Whether the degree-2 part can be present. False is a proof of affinity.
        quadratic_depends, linear_depends, constant_depends: The parameters on which the
            coefficients of degree 2, 1, 0 can depend; empty where they are constants.
        curved_rows, affine_rows: Of a vector function, ascending: rows whose degree-2 part can be
            present, and the others. Both are empty for a scalar function.
        hessian: The Hessians where they are constants and not all zero: (n, n) of a scalar
            function, else (len(curved_rows), n, n). Otherwise None.
    """

    shape: tuple[int, ...]
    has_quadratic: bool
    quadratic_depends: frozenset[str]
    linear_depends: frozenset[str]
    constant_depends: frozenset[str]
    curved_rows: tuple[int, ...] = ()
    affine_rows: tuple[int, ...] = ()
    hessian: Tensor | None = None


def recognise_scalar(
    function: SampleFunction, n: int, params: Params, *, dtype: torch.dtype | None = None
) -> Recognised | NotPolynomial:
    """Recognise a scalar function, for instance an objective.

    Args:
        function: Returns shape () for one sample.
        n: Number of variables.
        params: Example values of one sample. The proof does not depend on them; where the Hessian
            is a constant it is evaluated at them.
        dtype: dtype of x; see :func:`foldcore.polynomial.sample_like`.

    Raises:
        ShapeError: If a polynomial does not return a scalar.
        Exception: What the function itself raises on plain tensors, unchanged.
    """
    found = _of_degree_two(trace(function, n, params, dtype=dtype))
    if isinstance(found, NotPolynomial):
        return found
    if found.shape != ():
        raise ShapeError(
            f"A scalar function returned shape {found.shape} for one sample, expected (): "
            "sum its entries, or index the one that is meant."
        )
    curved, hessian = found.degree == 2, None
    if curved and not found.depends(2):
        hessian = Coefficients(function, n, dtype=dtype).quadratic(_detach(params)).detach()
        curved = bool((hessian != 0).any())
    return _recognised(found, curved, hessian=hessian if curved else None)


def recognise_vector(
    function: SampleFunction, n: int, params: Params, *, dtype: torch.dtype | None = None
) -> Recognised | NotPolynomial:
    """Recognise a vector function, for instance constraints, and tell its rows apart.

    Where the Hessians are constants, the rows whose Hessian is exactly zero are affine; a Hessian
    that is not finite counts as curved. Where they depend on parameters all rows are curved.

    Args:
        function: Returns shape (m,) for one sample.
        n: Number of variables.
        params: See :func:`recognise_scalar`.
        dtype: dtype of x; see :func:`foldcore.polynomial.sample_like`.

    Raises:
        ShapeError: If a polynomial does not return a vector.
        Exception: What the function itself raises on plain tensors, unchanged.
    """
    found = _of_degree_two(trace(function, n, params, dtype=dtype))
    if isinstance(found, NotPolynomial):
        return found
    if len(found.shape) != 1:
        raise ShapeError(
            f"A vector function returned shape {found.shape} for one sample, expected (m,): "
            "reshape it, for instance .reshape(1) for one constraint."
        )
    rows, hessian = tuple(range(found.shape[0])), None
    curved = rows if found.degree == 2 else ()
    if curved and not found.depends(2):
        curved, hessian = _curved_rows(function, n, _detach(params), rows, dtype)
    affine = tuple(row for row in rows if row not in set(curved))
    return _recognised(found, bool(curved), curved, affine, hessian)


def _of_degree_two(found: Polynomial | NotPolynomial) -> Polynomial | NotPolynomial:
    if isinstance(found, Polynomial) and found.degree > 2:
        return NotPolynomial(f"has degree {found.degree} in x")
    return found


def _detach(params: Params) -> Params:
    return {name: value.detach() for name, value in params.items()}


def _curved_rows(
    function: SampleFunction,
    n: int,
    params: Params,
    rows: tuple[int, ...],
    dtype: torch.dtype | None,
) -> tuple[tuple[int, ...], Tensor | None]:
    """Return the rows with a nonzero Hessian, and those Hessians; a few rows at a time."""
    size = max(1, _CHUNK // max(1, n * n))
    curved: list[int] = []
    kept: list[Tensor] = []
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        hessians = Coefficients(function, n, chunk, dtype).quadratic(params).detach()
        nonzero = (hessians != 0).flatten(1).any(1)
        curved += [row for row, is_curved in zip(chunk, nonzero.tolist(), strict=True) if is_curved]
        kept.append(hessians[nonzero])
    return tuple(curved), torch.cat(kept) if curved else None


def _recognised(
    found: Polynomial,
    has_quadratic: bool,
    curved_rows: tuple[int, ...] = (),
    affine_rows: tuple[int, ...] = (),
    hessian: Tensor | None = None,
) -> Recognised:
    return Recognised(
        shape=found.shape,
        has_quadratic=has_quadratic,
        quadratic_depends=found.depends(2),
        linear_depends=found.depends(1),
        constant_depends=found.depends(0),
        curved_rows=curved_rows,
        affine_rows=affine_rows,
        hessian=hessian,
    )
