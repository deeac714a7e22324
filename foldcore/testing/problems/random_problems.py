"""Random problems of known properties, for tests of solvers and rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ...param import Param
from ...problem.quadratic import QuadraticProgram

INTERIOR = 0.5
"""Every entry of the strictly feasible point of :func:`random_qp`."""


def random_qp(
    seed: int,
    n: int,
    n_equality: int = 0,
    n_inequality: int = 0,
    *,
    bounds: bool = True,
    batch: int | None = None,
    decades: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Return strictly convex, strictly feasible QPs of which several constraints are active.

    Invariant: x = ½·(1, …, 1), divided by the columns' scales where ``decades`` > 0, satisfies
    Ax = b, and all inequalities and bounds with a slack of at least 0.1 before scaling. The
    unconstrained minimiser lies outside, about 2√n from that point, so that about half of the
    inequalities and bounds bind. The same arguments give the same numbers on every machine of
    one torch version.

    Args:
        seed: Of the generator; different seeds give unrelated problems.
        n, n_equality, n_inequality: Sizes; A has full row rank for n_equality <= n.
        bounds: Whether every variable has a finite lower and upper bound.
        batch: B for tensors with a leading batch dimension, all samples different; None without.
        decades: Spread of random scales of columns and rows: each is 10**U(-d/2, d/2).
        dtype: The numbers are drawn in float64 and rounded.

    Returns:
        P (n, n), q (n,), A (p, n), b (p,), G (m, n), h (m,), lower (n,), upper (n,), each with
        ``batch`` in front; A and b, G and h, lower and upper only where there are any.
    """
    generator = torch.Generator().manual_seed(seed)
    lead = () if batch is None else (batch,)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(*lead, *shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * drawn

    factor = normal(n, n) / n**0.5
    hessian = factor @ factor.mT + 0.1 * torch.eye(n, dtype=torch.float64)
    point = torch.full((*lead, n), INTERIOR, dtype=torch.float64)
    data = {"P": hessian, "q": -_times(hessian, point + 2 * normal(n))}
    if n_equality:
        data["A"] = normal(n_equality, n) / n**0.5
        data["b"] = _times(data["A"], point)
    if n_inequality:
        data["G"] = normal(n_inequality, n) / n**0.5
        data["h"] = _times(data["G"], point) + uniform(0.1, 1.0, n_inequality)
    if bounds:
        data["lower"] = point - uniform(0.2, 1.2, n)
        data["upper"] = point + uniform(0.2, 1.2, n)
    if decades:
        columns = 10 ** uniform(-decades / 2, decades / 2, n)
        data = _rescale_columns(data, columns)
        for matrix, vector in (("A", "b"), ("G", "h")):
            if matrix in data:
                rows = 10 ** uniform(-decades / 2, decades / 2, data[matrix].shape[-2])
                data[matrix] = data[matrix] * rows.unsqueeze(-1)
                data[vector] = data[vector] * rows
    return {name: value.to(dtype) for name, value in data.items()}


def declare(
    data: Mapping[str, Tensor], params: Collection[str], *, psd: bool = True
) -> QuadraticProgram:
    """Return the declaration in which the fields ``params`` are inputs and the others constants.

    Args:
        data: As of :func:`random_qp`. Constants must not have a batch dimension.
        params: Names of fields; each becomes a Param of the field's shape without batch.
        psd: Whether a Param for P is declared positive semidefinite.

    Raises:
        ProblemError: If a constant has a batch dimension.
    """
    fields: dict[str, Tensor | Param] = {}
    for name, value in data.items():
        own = 2 if name in ("P", "A", "G") else 1
        if name in params:
            fields[name] = Param(*value.shape[value.ndim - own :], psd=psd and name == "P")
        else:
            fields[name] = value
    return QuadraticProgram(**fields)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _rescale_columns(data: Mapping[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
    """Substitute x = scale·x̃."""
    changed = dict(data)
    for name, value in data.items():
        if name == "P":
            changed[name] = value * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        elif name in ("A", "G"):
            changed[name] = value * scale.unsqueeze(-2)
        elif name == "q":
            changed[name] = value * scale
        elif name in ("lower", "upper"):
            changed[name] = value / scale
    return changed
