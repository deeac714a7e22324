"""diagnose(layer, **params): how good a fold's gradient is at a point, and what would improve it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConfigError, SolveError, name_samples
from ..numerics.solving import solve_checked
from ..rules.spectrum import fastest_step, spectral_radius
from ..solution import Solution
from .backward.fixed_point import attach_fixed_point
from .backward.record import RecordedFold, adjoint_pass, record_fold, record_step
from .call.bound_call import Call
from .call.inputs import Inputs
from .call.verdicts import Verdicts
from .forward import solve_black_box
from .layer import Fold

Adjoint = Callable[[Tensor], Tensor]

_DENSE_LIMIT = 2000
"""State size up to which Φ is assembled, for condition and error estimates."""


@dataclass(frozen=True)
class Diagnosis:
    """What was measured, per sample; everything is detached and of shape (B,).

    Attributes:
        fixed_point_residual: ‖U(z) - z‖∞ / step.
        spectral_radius: ρ(Φ), by Arnoldi on products; lfpi converges where it is below 1.
        condition: 2-norm condition number of I - Φ; NaN for states above 2000 entries.
        gradient_error: Estimated relative error of a directional derivative: its change when the
            state moves by the estimated solution error (I - Φ)⁻¹(U(z) - z) and the adjoint is
            solved exactly. NaN for states above 2000 entries.
        difference_error: Relative deviation of the directional derivative from central differences
            of the layer, along a random direction of all parameters.
        step, best_step: The rule's step, and the one that minimises ρ(Φ); None for rules without.
        best_radius: ρ(Φ) measured at ``best_step``; None for rules without a step.
        advice: One sentence per finding.
    """

    fixed_point_residual: Tensor
    spectral_radius: Tensor
    condition: Tensor
    gradient_error: Tensor
    difference_error: Tensor
    step: Tensor | None
    best_step: Tensor | None
    best_radius: Tensor | None
    advice: tuple[str, ...] = ()


def diagnose(
    layer: Fold, *, difference_step: float = 1e-5, seed: int = 0, **params: Tensor
) -> Diagnosis:
    """Measure a layer's fold at given parameters.

    Costs three solves, a few hundred products and, for small states, one dense Φ. Shared parameters
    are repeated for each sample, so that every number is one sample's own.

    Args:
        layer: A layer with an update rule.
        difference_step: Step of the central differences, relative to 1 + the parameters' size.
        seed: Of the random functional w and direction.
        **params: As for a call of the layer.

    Raises:
        ConfigError: If there is no rule, because the solver is itself differentiable.
        SolveError: If a sample cannot be solved.
        AdjointError: If the layer's adjoint solver does not converge and its policy is "raise".
    """
    rule = layer.rule
    if rule is None:
        raise ConfigError(
            "diagnose: the layer has no update rule; its solver differentiates itself."
        )
    inputs = _every_sample_its_own(layer, layer.inputs(params))
    generator = torch.Generator().manual_seed(seed)
    weights = _random((inputs.batch, layer.problem.n), generator, inputs)
    direction = {
        name: _random(value.shape, generator, inputs) * (1 + value.detach().abs().amax())
        for name, value in inputs.values.items()
        if value.requires_grad
    }
    raw = _solved(layer, inputs)
    parts = layer.parts
    call = Call(parts.problem, inputs, Verdicts(inputs.batch))
    recorded = record_fold(parts, rule, call, raw)
    slope = _slope(inputs, recorded, adjoint_pass(parts, inputs, recorded), weights, direction)
    measured = _difference(layer, inputs, weights, direction, difference_step)
    condition, exact = _dense_estimates(inputs, recorded, weights, direction)
    step, best_step, best_radius = _steps(recorded)
    found = Diagnosis(
        fixed_point_residual=recorded.residual.detach(),
        spectral_radius=spectral_radius(recorded.operator),
        condition=condition,
        gradient_error=_relative(slope, exact),
        difference_error=_relative(slope, measured),
        step=step,
        best_step=best_step,
        best_radius=best_radius,
    )
    return replace(found, advice=tuple(_advice(found)))


def _every_sample_its_own(layer: Fold, inputs: Inputs) -> Inputs:
    """Return inputs whose parameters are batched leaves that need a gradient."""
    values = dict(inputs.values)
    for name in layer.problem.params:
        value = values[name].detach()
        if name not in inputs.batched:
            value = value.expand(inputs.batch, *value.shape)
        values[name] = value.clone().requires_grad_()
    batched = inputs.batched | frozenset(layer.problem.params)
    return replace(inputs, values=values, batched=batched)


def _random(shape: tuple[int, ...], generator: torch.Generator, inputs: Inputs) -> Tensor:
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.to(dtype=inputs.dtype, device=inputs.device)


def _solved(layer: Fold, inputs: Inputs) -> Solution:
    parts = layer.parts
    call = Call(parts.problem, inputs, Verdicts(inputs.batch))
    raw, _ = solve_black_box(parts, call, None)
    call.verdicts.report(parts.subject, "raise")
    if raw is None:
        raise SolveError(f"{parts.subject}: no sample could be solved.")
    return raw


def _slope(
    inputs: Inputs,
    recorded: RecordedFold,
    adjoint: Adjoint,
    weights: Tensor,
    direction: Mapping[str, Tensor],
) -> Tensor:
    """Return the folded derivative of wᵀx along the direction, per sample. Shape (B,)."""
    point = attach_fixed_point(recorded.updated, recorded.state, adjoint)
    x = recorded.bound.primal(point)
    leaves = [inputs.values[name] for name in direction]
    gradients = torch.autograd.grad(
        (x * weights).sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    terms = [
        (gradient * step).reshape(inputs.batch, -1).sum(-1)
        for gradient, step in zip(gradients, direction.values(), strict=True)
    ]
    return torch.stack(terms).sum(0)


def _difference(
    layer: Fold, inputs: Inputs, weights: Tensor, direction: Mapping[str, Tensor], size: float
) -> Tensor:
    """Return the central difference of wᵀx along the direction, per sample. Shape (B,)."""
    ends = []
    for sign in (1.0, -1.0):
        values = dict(inputs.values)
        for name, step in direction.items():
            values[name] = values[name].detach() + sign * size * step
        moved = replace(inputs, values=values)
        ends.append((_solved(layer, moved).primal * weights).sum(-1))
    return (ends[0] - ends[1]) / (2 * size)


def _dense_estimates(
    inputs: Inputs, recorded: RecordedFold, weights: Tensor, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the condition of I - Φ, and the slope at a corrected state with an exact adjoint."""
    if recorded.operator.size > _DENSE_LIMIT or recorded.operator.size == 0:
        unknown = torch.full_like(recorded.residual, float("nan"))
        return unknown, unknown
    matrix = _system(recorded)
    condition = torch.linalg.cond(matrix)
    with torch.no_grad():
        correction, _ = solve_checked(matrix, recorded.updated - recorded.state)
    corrected = record_step(recorded.program, recorded.bound, recorded.state + correction)
    transposed = _system(corrected).mT
    slope = _slope(inputs, corrected, lambda g: solve_checked(transposed, g)[0], weights, direction)
    return condition, slope


def _system(recorded: RecordedFold) -> Tensor:
    """Return I - Φ, (B, s, s)."""
    with torch.enable_grad():
        jacobian = recorded.operator.dense()
    identity = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    return (identity - jacobian).expand(recorded.operator.batch, -1, -1)


def _steps(recorded: RecordedFold) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the step, the best step, and ρ(Φ) measured there."""
    step = recorded.bound.step_scale
    if not isinstance(step, Tensor):
        return None, None, None
    best = fastest_step(recorded.operator, step)
    other = recorded.bound.with_step(best)
    if other is None:
        return None, None, None
    at_best = record_step(recorded.program, other, recorded.state)
    present = step.detach().expand(recorded.operator.batch)
    return present, best, spectral_radius(at_best.operator)


def _relative(value: Tensor, reference: Tensor) -> Tensor:
    size = torch.maximum(value.abs(), reference.abs())
    floor = 1e-3 * size.mean() + torch.finfo(value.dtype).tiny
    return (value - reference).abs() / torch.maximum(size, floor)


def _advice(found: Diagnosis) -> list[str]:
    advice = []
    radius = found.spectral_radius
    if bool((radius >= 1).any()):
        where = torch.nonzero(radius >= 1).flatten().tolist()
        advice.append(
            f"ρ(Φ) is {float(radius.max()):.3g} (samples {name_samples(where)}): lfpi diverges there; "
            f"use gmres or direct."
        )
    elif bool((radius > 0.9).any()):
        products = math.log(1e-8) / math.log(float(radius.max()))
        advice.append(
            f"ρ(Φ) reaches {float(radius.max()):.4f}: lfpi needs about {products:.0f} products for "
            f"1e-8; gmres needs far fewer."
        )
    if found.best_radius is not None and found.best_step is not None:
        gain = torch.log(found.best_radius.clamp(min=1e-12)) / torch.log(
            radius.clamp(1e-12, 1 - 1e-12)
        )
        if bool((gain.median() > 1.2) | (radius >= 1).any()):
            advice.append(
                f"A step of {float(found.best_step.median()):.3g} (median; step_size: auto takes it per "
                f"sample) brings ρ(Φ) from {float(radius.median()):.4f} to "
                f"{float(found.best_radius.median()):.4f}."
            )
    if bool((found.condition > 1e10).any()):
        advice.append(
            f"I - Φ has condition {float(found.condition.nan_to_num().max()):.1e}: the solution is "
            f"nearly degenerate and its gradient sensitive to every digit."
        )
    if bool((found.gradient_error > 1e-4).any()):
        advice.append(
            f"The gradient's estimated error reaches {float(found.gradient_error.nan_to_num().max()):.1e}: "
            f"tighten the solver, set fixed_point.polish, or tighten the adjoint's rtol."
        )
    if bool((found.difference_error > 1e-3).any()):
        where = torch.nonzero(found.difference_error > 1e-3).flatten().tolist()
        advice.append(
            f"Central differences disagree for samples {name_samples(where)}: a kink nearby, a solver "
            f"less accurate than the difference, or a rule that does not fit the problem."
        )
    return advice
