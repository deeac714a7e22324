"""What one step size costs: products, gradient error, ρ(Φ), and whether x* stays at rest."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import foldcore as fc
from foldcore.hooks import hookimpl, listening

from ...experiment import Row
from ...series import series_gradients
from .problems import PROBLEMS, Instance

if TYPE_CHECKING:
    from .settings import StepSizeSettings


class _Adjoints:
    """Listener that keeps the report of the last adjoint solve of the outer fold."""

    last: fc.AdjointSolution | None = None

    @hookimpl
    def foldcore_adjoint_finished(self, path: str, adjoint: fc.AdjointSolution) -> None:
        if path == "":
            self.last = adjoint


def measure(settings: StepSizeSettings, problem: str, seed: int) -> list[Row]:
    """Return one row per step size: the grid, foldcore's default and ``step_size: auto``.

    ``relative_step`` is α divided by the step that ``fc.diagnose`` proposes for the instance, so that
    instances can be put together. ``series_error`` is that of the gradient after a fixed number of
    products, unchecked; lfpi would stop and report. ``unfold_drift`` is how far as many steps, evaluated
    in floating point, leave the solution that they start at: ‖x_K - x*‖∞ relative to 1 + ‖x*‖∞.
    """
    instance = PROBLEMS[problem](seed, settings.size)
    default = _layer(instance, None, adjoint={"kind": "direct", "rtol": 1e-12})
    found = fc.diagnose(default, **_batched(instance))
    if found.step is None or found.best_step is None:
        raise TypeError(f"{instance.rule}: expected a rule with a step size.")
    present, best = float(found.step), float(found.best_step)
    reference = _gradient(default, instance)
    steps: list[tuple[str, float | str | None, float]] = [
        ("default", None, present),
        ("auto", "auto", best),
    ]
    steps += [("grid", relative * best, relative * best) for relative in settings.grid()]
    rows: list[Row] = []
    for choice, option, step in steps:
        row: Row = {"choice": choice, "step": step, "relative_step": step / best}
        rows.append({**row, **_one_step(settings, instance, option, step, reference)})
    return rows


def _one_step(
    settings: StepSizeSettings,
    instance: Instance,
    option: float | str | None,
    step: float,
    reference: Tensor,
) -> Row:
    row: Row = dict(_at_rest(instance, option, step))
    for kind in ("lfpi", "gmres"):
        adjoint = {"kind": kind, "rtol": settings.rtol, "max_iter": settings.max_products}
        layer = _layer(instance, option, adjoint=adjoint, on_adjoint_failure="warn")
        listener = _Adjoints()
        with listening(listener), _expected_divergence():
            gradient = _gradient(layer, instance)
        if listener.last is None:
            raise RuntimeError("stepsize: the backward pass ran no adjoint solve.")
        row[f"{kind}_products"] = int(listener.last.iterations[0])
        row[f"{kind}_converged"] = bool(listener.last.converged[0])
        row[f"{kind}_error"] = _relative(gradient, reference)
    row["series_error"] = _relative(_truncated_series(settings, instance, option), reference)
    row["unfold_drift"] = _drift(settings, instance, option)
    return row


def _truncated_series(
    settings: StepSizeSettings, instance: Instance, option: float | str | None
) -> Tensor:
    layer = _layer(instance, option, adjoint="direct")
    cotangent, length = instance.cotangent[None], settings.series_products
    *_, last = series_gradients(layer, _batched(instance), cotangent, length)
    return torch.cat([part.reshape(-1) for part in last])


def _drift(settings: StepSizeSettings, instance: Instance, option: float | str | None) -> float:
    layer = _layer(
        instance, option, mode="fixed_point_unfold", iterations=settings.series_products,
        on_adjoint_failure="warn",
    )  # fmt: skip
    params = {name: value.clone().requires_grad_() for name, value in instance.params.items()}
    with _expected_divergence():
        moved = layer(**params).detach()
    with torch.no_grad():
        rest = layer(**instance.params)
    return float((moved - rest).abs().max() / (1 + rest.abs().max()))


def _layer(instance: Instance, step: float | str | None, **config: object) -> fc.Fold:
    return fc.build(
        {
            "problem": instance.problem,
            "solver": instance.solver,
            "rule": {"kind": instance.rule, "step_size": step},
            "fixed_point": {"on_violation": "ignore"},  # it is measured, in a column of its own
            **config,
        }
    )


def _gradient(layer: fc.Fold, instance: Instance) -> Tensor:
    """Return the gradient in all parameters as one vector."""
    leaves = {name: value.clone().requires_grad_() for name, value in instance.params.items()}
    x = layer(**leaves)
    parts = torch.autograd.grad((x * instance.cotangent).sum(), list(leaves.values()))
    return torch.cat([part.reshape(-1) for part in parts])


def _at_rest(
    instance: Instance, option: float | str | None, step: float
) -> Iterator[tuple[str, float]]:
    """Yield ρ(Φ), and ‖U(z*) - z*‖∞ relative to 1 + ‖z*‖∞: how stationary the solution is."""
    layer = _layer(instance, option, adjoint="direct")
    if layer.rule is None:
        raise TypeError("stepsize: its layers have an update rule.")
    params = _batched(instance)
    program = layer.problem.bind({**layer.problem.constants, **params}, 1)
    with torch.no_grad():
        bound = layer.rule.bind(program, {})
        state = bound.lift(layer.solve(**params))
        bound = bound.at(state)
        gap = (bound.step(state) - state).abs().max() / (1 + state.abs().max())
    yield "spectral_radius", float(fc.spectral_radius(fc.linearise(bound, state)))
    yield "rest_residual", float(gap)


def _batched(instance: Instance) -> dict[str, Any]:
    """Return the parameters as a batch of one. ``Any``: as keywords they stand beside options."""
    return {name: value[None] for name, value in instance.params.items()}


@contextmanager
def _expected_divergence() -> Iterator[None]:
    """Silence the warning of an adjoint that did not converge: the row records it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.AdjointWarning)
        yield


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm())
