"""How far the gradients of the backward passes are from each other and from the exact one."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ...experiment import Row
from .cone import ConeProgram
from .methods import differentiable_top_k
from .settings import ConeSettings, Forward, Inner, Method, MultilabelSettings
from .top_k import TopK, black_box

FORWARDS: tuple[Forward, ...] = ("bisection", "cvxpy")
DEFAULTS, LSQR, DENSE = "default tolerances", "lsqr", "dense"
QPTH, NEWTON = "inner qpth", "inner osqp + newton"


def agreement(settings: MultilabelSettings, n: int, k: int) -> list[Row]:
    """Compare the gradients of random functions of x at random logits.

    Returns:
        One row per shared forward pass and backward pass: the largest and the median relative
        difference over the samples, ‖a - b‖₂ / ‖b‖₂, to the exact derivative of the KKT conditions
        and to cvxpylayers' (tight, lsqr) at that forward pass; the forward pass's distance to
        cvxpylayers' own point; seconds of a batch.
    """
    c, cotangent = random_problem(settings, n)
    rows: list[Row] = []
    for forward in FORWARDS:
        solver = black_box(forward, n, k, settings.temperature, settings.cone)
        found = {
            variant: timed_gradient(
                differentiable_top_k(
                    method, solver, n, k, settings.temperature, inner=inner, cone=cone
                ),
                c,
                cotangent,
            )
            for variant, (method, inner, cone) in _variants(settings.cone).items()
        }
        exact = found["direct", ""].gradient
        reference = found["cvxpylayers", LSQR].gradient
        for (method, detail), pass_ in found.items():
            to_exact = relative_difference(pass_.gradient, exact)
            to_cone = relative_difference(pass_.gradient, reference)
            rows.append(
                {
                    "forward": forward,
                    "method": method,
                    "detail": detail,
                    "exact_difference_max": float(to_exact.max()),
                    "exact_difference_median": float(to_exact.median()),
                    "cvxpylayers_difference_max": float(to_cone.max()),
                    "cvxpylayers_difference_median": float(to_cone.median()),
                    "value_difference": float(
                        (pass_.value - found["direct", ""].value).abs().max()
                    ),
                    "cone_point_difference": _own_point(settings, n, k, detail, c, pass_.value),
                    "forward_seconds": pass_.forward_seconds,
                    "backward_seconds": pass_.backward_seconds,
                }
            )
    return rows


def random_problem(settings: MultilabelSettings, n: int) -> tuple[Tensor, Tensor]:
    """Return bounded logits c and cotangents, (samples, n) each, float64."""
    generator = torch.Generator().manual_seed(settings.agreement.seed)
    shape = (settings.agreement.samples, n)
    raw, cotangent = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    bound = settings.logit_bound
    return bound * torch.tanh(3 * raw / bound), cotangent


def relative_difference(found: Tensor, reference: Tensor) -> Tensor:
    """Return ‖found - reference‖₂ / ‖reference‖₂ per sample. Shapes (B, n) -> (B,)."""
    error, scale = (torch.linalg.vector_norm(v, dim=-1) for v in (found - reference, reference))
    relative: Tensor = error / scale
    return relative


class Pass:
    """A forward and a backward pass: value and gradient (B, n), and the seconds they took."""

    def __init__(self, top_k: TopK, c: Tensor, cotangent: Tensor) -> None:
        point = c.detach().clone().requires_grad_()
        started = time.perf_counter()
        x = top_k(point)
        self.forward_seconds = time.perf_counter() - started
        (self.gradient,) = torch.autograd.grad(x, point, cotangent)
        self.backward_seconds = time.perf_counter() - started - self.forward_seconds
        self.value = x.detach()


def timed_gradient(top_k: TopK, c: Tensor, cotangent: Tensor) -> Pass:
    """Return the second of two passes: the first opens sessions and compiles."""
    Pass(top_k, c[:2], cotangent[:2])
    return Pass(top_k, c, cotangent)


def _variants(
    cone: ConeSettings,
) -> dict[tuple[str, str], tuple[Method, Inner, ConeSettings]]:
    lsqr, dense = (cone.model_copy(update={"mode": mode}) for mode in ("lsqr", "dense"))
    return {
        ("f-PGDa", QPTH): ("f-PGDa", "qpth", cone),
        ("f-PGDa", NEWTON): ("f-PGDa", "newton", cone),
        ("f-SQP", QPTH): ("f-SQP", "qpth", cone),
        ("f-SQP", NEWTON): ("f-SQP", "newton", cone),
        ("cvxpylayers", DEFAULTS): ("cvxpylayers-default", "qpth", cone),
        ("cvxpylayers", LSQR): ("cvxpylayers", "qpth", lsqr),
        ("cvxpylayers", DENSE): ("cvxpylayers", "qpth", dense),
        ("direct", ""): ("direct", "qpth", cone),
    }


def _own_point(
    settings: MultilabelSettings, n: int, k: int, detail: str, c: Tensor, shared: Tensor
) -> float | None:
    """Return max |x of cvxpylayers' own pass - shared x|, None for the other methods."""
    if detail not in (DEFAULTS, LSQR, DENSE):
        return None
    cone = None if detail == DEFAULTS else settings.cone
    with torch.no_grad():
        own = ConeProgram(n, k, settings.temperature, cone)(c)
    return float((own - shared).abs().max())
