"""Unfold K steps on the graph and compare x_K and dL/dc with x* and the exact gradient."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

import foldcore as fc

from ...experiment import Row
from ...series import series_gradients
from ...topk import bounded_logits, smooth_topk, topk_solver

if TYPE_CHECKING:
    from .settings import ConvergenceSettings


class Start(str, Enum):
    """The starting point x_0 of the unfolding."""

    SOLUTION = "solution"
    """x*: fixed-point unfolding."""
    RANDOM = "random"
    """A uniform random vector of (0, 1)ⁿ, projected onto the feasible set."""


class Instances(NamedTuple):
    """A batch of instances: logits c, indicators y of the targets, random points; each (B, n)."""

    logits: Tensor
    targets: Tensor
    points: Tensor


def draw_instances(settings: ConvergenceSettings, seeds: Iterable[int]) -> Instances:
    """Draw one instance per seed; its numbers do not depend on the other seeds."""
    n = settings.classes
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(10_000 + seed)
        target = torch.zeros(n, dtype=torch.float64)
        target[torch.randperm(n, generator=generator)[: settings.k]] = 1.0
        point = torch.rand(n, generator=generator, dtype=torch.float64)
        drawn.append((bounded_logits(seed, n, settings.logit_bound), target, point))
    return Instances(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))


def loss(x: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of x with the top-k indicators, summed over the batch."""
    return -(targets * x.log()).sum()


def measure(settings: ConvergenceSettings, start: Start, seeds: Iterable[int]) -> list[Row]:
    """Return errors for each instance and number of steps K.

    ``forward_error`` is ‖x_K - x*‖₁/‖x*‖₁ and ``backward_error`` likewise for dL/dc, the measure of
    the paper's section 4; the reference gradient is folded, its adjoint solved directly. From x*,
    ``series_previous`` and ``series_same`` tell how far the gradient after K steps is from Ψᵀv_{K-1}
    and from Ψᵀv_K of equation (24), relative to the reference.
    """
    seeds = list(seeds)
    instances = draw_instances(settings, seeds)
    exact = _layer(settings, adjoint={"kind": "direct", "rtol": 1e-13})
    solution, reference = _pass(exact, instances)
    radii = fc.diagnose(exact, c=instances.logits).spectral_radius
    counts = settings.counts()
    series = _series(exact, instances, solution, max(counts)) if start is Start.SOLUTION else None
    rows: list[Row] = []
    for count in counts:
        x, gradient = _unfolded(settings, start, instances, count)
        columns = {
            "spectral_radius": radii,
            "forward_error": _relative(x, solution),
            "backward_error": _relative(gradient, reference),
        }
        if series is not None:
            size = reference.abs().sum(-1)
            for name, one in (("previous", series[count - 1]), ("same", series[count])):
                columns[f"series_{name}"] = (gradient - one).abs().sum(-1) / size
        rows += [
            {"seed": seed, "iteration": count, **{k: float(v[i]) for k, v in columns.items()}}
            for i, seed in enumerate(seeds)
        ]
    return rows


def _layer(settings: ConvergenceSettings, **config: object) -> fc.Fold:
    problem = smooth_topk(settings.classes, settings.k, settings.temperature, settings.floor)
    return fc.build(
        {
            "problem": problem,
            "solver": topk_solver(settings.k, settings.temperature, settings.floor),
            "rule": {"kind": "pgd", "step_size": settings.step_size},
            **config,
        }
    )


def _unfolded(
    settings: ConvergenceSettings, start: Start, instances: Instances, count: int
) -> tuple[Tensor, Tensor]:
    if start is Start.SOLUTION:
        return _pass(_layer(settings, mode="fixed_point_unfold", iterations=count), instances)
    # Certificates would reject, rightly, a point that has not converged yet.
    relaxed = {"on_violation": "ignore", "reject_above": 1e9}
    layer = _layer(settings, mode="unfold", iterations=count, kkt=relaxed)
    status = (fc.Status.OPTIMAL,) * len(instances.points)
    return _pass(layer, instances, fc.Solution(primal=instances.points, status=status))


def _pass(
    layer: fc.Fold, instances: Instances, warm_start: fc.Solution | None = None
) -> tuple[Tensor, Tensor]:
    """Return x and dL/dc, both (B, n)."""
    logits = instances.logits.clone().requires_grad_()
    x = layer(c=logits, warm_start=warm_start)
    (gradient,) = torch.autograd.grad(loss(x, instances.targets), logits)
    return x.detach(), gradient


def _series(layer: fc.Fold, instances: Instances, solution: Tensor, length: int) -> list[Tensor]:
    """Return Ψᵀv_j for j = 0 … length, each (B, n)."""
    x = solution.clone().requires_grad_()
    (cotangent,) = torch.autograd.grad(loss(x, instances.targets), x)
    found = series_gradients(layer, {"c": instances.logits}, cotangent, length)
    return [gradient for (gradient,) in found]


def _relative(value: Tensor, reference: Tensor) -> Tensor:
    return (value - reference).abs().sum(-1) / reference.abs().sum(-1)
