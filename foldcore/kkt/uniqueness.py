"""Whether a derivative exists although the system is singular: the null space must not reach it.

With Ky = r(θ), K = K(θ), the gradient of a loss with cotangent v is wᵀ(∂r - ∂K y), Kw = v. Both w and y
are free along K's null vectors n. So there is one gradient if v is orthogonal to every n (the loss
does not see what the solution leaves open), and if nᵀ(∂r - ∂K y) and nᵀ∂K w are 0: as they are for
all data that leave the dependence of the rows as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .factors import Factors
from .solution_system import SolutionSystem
from .sparse import SparseFactors
from .system import KKTSystem

_CONSISTENT = 1e-8
"""Part of a cotangent along the null space, relative to the whole, up to which it is rounding."""

_UNIQUE = 1e-6
"""Size of a null vector's effect, relative to that of a generic one, up to which it has none."""

_FLAT = 1e-9
"""Multipliers of a null vector, relative to the whole of it, up to which it is a flat direction alone."""

_NAMED = 1e-3
"""Entries of a null vector, relative to its largest, that are named in a message."""


_LISTED = 8
"""Numbers of one kind that a message lists."""


@dataclass(frozen=True)
class Ambiguity:
    """A derivative that does not exist.

    Attributes:
        sample: Whose.
        parameter: With respect to which; None where the loss depends on what the solution leaves
            open, and so no parameter has one.
        rows: The rows, bounds and variables that its null space reaches, in words; "" for none.
    """

    sample: int
    parameter: str | None
    rows: str


def ambiguities(
    system: KKTSystem,
    right: Tensor,
    found: Tensor,
    cotangent: Tensor,
    parameters: Mapping[str, Tensor],
    named: Callable[[int], str],
) -> list[Ambiguity]:
    """Return which derivatives of yᵀv do not exist, for samples whose K is singular.

    Args:
        system, right: K and r, on the graph of the parameters.
        found: y. Shape (B, size).
        cotangent: v. Shape (B, size).
        parameters: Those that need a gradient, by name.
        named: Sample -> the rows that its null space reaches, in words.
    """
    factors = system.factors
    samples = factors.careful
    if samples is None or not factors.singular:
        return []
    found, cotangent = found.detach(), cotangent.detach()
    basis = factors.null_vectors.detach()
    operator = factors.operator
    pulled = factors.solve(cotangent)
    seen = (cotangent - operator.product(pulled)).abs().amax(-1)
    asked = cotangent.abs().amax(-1)
    relevant = (factors.nullity > 0) & (asked > 0)
    if not bool(relevant.any()):
        return []
    unseen = relevant & ~(seen <= _CONSISTENT * asked)
    reported = [Ambiguity(i, None, named(i)) for i in torch.nonzero(unseen).flatten().tolist()]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(basis.shape[-1], generator=generator, dtype=torch.float64).to(basis)
    null = torch.zeros_like(found)
    # Along a flat direction alone (no multipliers) nothing is left to test: the loss does not see it.
    bound_up = basis[:, operator.n :].abs().amax(-2) > _FLAT * basis.abs().amax(-2)
    null[samples] = (basis * bound_up.unsqueeze(-2)) @ weights
    null = torch.where((relevant & ~unseen).unsqueeze(-1), null, 0.0)
    hit = _effects(system, right, found, pulled, null, parameters)
    for name in [name for name, samples_hit in hit.items() if samples_hit]:
        for i in torch.nonzero(relevant & ~unseen).flatten().tolist():
            alone = torch.zeros_like(null)
            alone[i] = null[i]
            if _effects(system, right, found, pulled, alone, {name: parameters[name]})[name]:
                reported.append(Ambiguity(i, name, named(i)))
    return reported


def solution_ambiguities(
    system: SolutionSystem, found: Tensor, cotangent: Tensor, parameters: Mapping[str, Tensor]
) -> list[Ambiguity]:
    """Return :func:`ambiguities` of a solution's system, with its rows by kind and number."""
    return ambiguities(
        system.system, system.right, found, cotangent, parameters, lambda i: _names(system, i)
    )


def _basis_of(factors: Factors | SparseFactors, sample: int) -> Tensor:
    """Return the null vectors of one sample, (size, r)."""
    careful = factors.careful
    if careful is None:
        return factors.null_vectors[:0]
    return factors.null_vectors[int(torch.nonzero(careful == sample)[0])]


def _effects(
    system: KKTSystem,
    right: Tensor,
    found: Tensor,
    pulled: Tensor,
    null: Tensor,
    parameters: Mapping[str, Tensor],
) -> dict[str, bool]:
    """Tell by parameter whether null vectors, one per sample, change any gradient."""
    names = list(parameters)
    tensors = [parameters[name] for name in names]
    size = null.abs().amax(-1, keepdim=True)
    generic = torch.linspace(1, 2, null.shape[-1], dtype=null.dtype, device=null.device) * size
    with torch.enable_grad():
        equations = right - system.operator.product(found)
        other = system.operator.product(null)
        scale = system.operator.product(generic.detach())
    pairs = ((equations, null, equations, generic), (other, pulled, scale, pulled))
    hit = dict.fromkeys(names, False)
    for value, direction, reference, against in pairs:
        effect = _gradients(value, tensors, direction)
        usual = _gradients(reference, tensors, against)
        for name, one, two in zip(names, effect, usual, strict=True):
            hit[name] = hit[name] or bool(one > _UNIQUE * two)
    return hit


def _gradients(value: Tensor, tensors: list[Tensor], direction: Tensor) -> list[float]:
    if not value.requires_grad:
        return [0.0] * len(tensors)
    found = torch.autograd.grad(value, tensors, direction, retain_graph=True, allow_unused=True)
    return [0.0 if one is None else float(one.norm()) for one in found]


def _names(system: SolutionSystem, sample: int) -> str:
    """Name the rows, bounds and variables that a sample's null space reaches, by kind and number."""
    program, held = system.program, system.held
    basis = _basis_of(system.system.factors, sample)
    size = basis.abs().amax(-1)
    n, p, m = program.n, program.n_equality, program.n_inequality
    large = size > _NAMED * size.max()
    kinds = {
        "equality": large[n : n + p],
        "inequality": large[n + p : n + p + m],
        "variable": large[:n],
    }
    if system.bounded:
        tail = large[n + p + m :]
        kinds["lower bound"] = tail & held.lower[sample]
        kinds["upper bound"] = tail & held.upper[sample]
    words = []
    for kind, mask in kinds.items():
        numbers = torch.nonzero(mask).flatten().tolist()
        if numbers:
            more = " …" if len(numbers) > _LISTED else ""
            words.append(f"{kind} {', '.join(map(str, numbers[:_LISTED]))}{more}")
    return "; ".join(words)
