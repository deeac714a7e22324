"""What a solve returns: per-sample status, primal, duals and the certificates that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor


class Status(str, Enum):
    """Outcome of one sample. Only ``OPTIMAL`` is a success."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    ITERATION_LIMIT = "iteration_limit"
    TIME_LIMIT = "time_limit"
    NUMERICAL = "numerical"
    """The solver gave up, or returned NaN or inf whatever it claimed."""
    INACCURATE = "inaccurate"
    """The solver claims success, but the KKT residual rejects the point."""
    NONCONVEX = "nonconvex"
    """The sample is not convex and the solver needs convexity."""
    INVALID_INPUT = "invalid_input"
    """A parameter of the sample is NaN or inf where that is not allowed."""
    INNER_FAILURE = "inner_failure"
    """An inner problem of the update rule failed for this sample."""

    @property
    def ok(self) -> bool:
        return self is Status.OPTIMAL


def _where(mask: Tensor, taken: object, other: object) -> dict[str, Tensor]:
    others = vars(other)
    return {
        name: torch.where(mask.reshape(-1, *(1,) * (value.ndim - 1)), value, others[name])
        for name, value in vars(taken).items()
    }


@dataclass(frozen=True)
class Duals:
    """Multipliers of L = f + νᵀh(x) + μᵀg(x) + λ_lowerᵀ(lower - x) + λ_upperᵀ(x - upper).

    All inequality multipliers are >= 0. The order of rows is that of
    :meth:`SmoothProgram.equality` and :meth:`SmoothProgram.inequality`.

    Attributes:
        equality: ν. Shape (B, p).
        inequality: μ. Shape (B, m).
        lower: Multiplier of ``lower <= x``; 0 where the bound is absent. Shape (B, n).
        upper: Multiplier of ``x <= upper``; 0 where the bound is absent. Shape (B, n).
    """

    equality: Tensor
    inequality: Tensor
    lower: Tensor
    upper: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Duals:
        """Return the duals with a function applied to each of the four."""
        return Duals(*[function(value) for value in vars(self).values()])

    def where(self, mask: Tensor, other: Duals) -> Duals:
        """Return these duals for the samples of a mask (B,), the other ones for the rest."""
        return Duals(**_where(mask, self, other))


@dataclass(frozen=True)
class KKTReport:
    """Certificate (a): how far a point is from optimality, from the problem's data alone.

    Each residual is the largest entry of its condition divided by 1 + the size of its terms.

    Attributes:
        stationarity, primal, dual, complementarity: Scaled residuals. Shape (B,).
        margin: Smallest over all inequalities and bounds of max(slack, multiplier), scaled
            likewise: near 0 where strict complementarity fails; inf without inequalities. Shape (B,).
        free_directions: Variables minus equalities and active rows and bounds; NaN where unknown. At
            0 or less the solution is a vertex: it moves with the constraints' data alone, and its
            gradient with respect to the objective is zero. Shape (B,).
        unique_duals: False where the active constraints' gradients are dependent. Shape (B,), bool.
    """

    stationarity: Tensor
    primal: Tensor
    dual: Tensor
    complementarity: Tensor
    margin: Tensor
    free_directions: Tensor
    unique_duals: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> KKTReport:
        """Return the report with a function applied to each of its tensors."""
        return KKTReport(*[function(value) for value in vars(self).values()])

    def where(self, mask: Tensor, other: KKTReport) -> KKTReport:
        """Return this report for the samples of a mask (B,), the other one for the rest."""
        return KKTReport(**_where(mask, self, other))

    @property
    def residual(self) -> Tensor:
        """The largest of the four. Shape (B,)."""
        return (
            self.stationarity.maximum(self.primal).maximum(self.dual).maximum(self.complementarity)
        )


@dataclass(frozen=True)
class Solution:
    """Result of a solve for a batch of B samples.

    A solver fills ``primal``, ``status`` and what it has of ``duals``, ``messages`` and
    ``iterations``; the layer adds the certificates.

    Attributes:
        primal: x*. Shape (B, n); (n,) from a layer whose parameters are all unbatched.
            NaN for failed samples where the layer masks failures.
        status: One per sample.
        duals: None where the solver gives none.
        messages: The solver's own words per sample; empty where it has none.
        iterations: The solver's own count per sample; empty where it has none.
        kkt: Certificate (a), added by the layer; None in what a solver hands over. A failed sample
            has NaN, or the residual that made it fail.
        fixed_point_residual: Certificate (b): ‖U(z) - z‖∞ divided by the rule's step, added by
            the layer when a gradient is needed. Shape (B,).
        inner: Reports of inner folds by their path in the configuration.
    """

    primal: Tensor
    status: tuple[Status, ...]
    duals: Duals | None = None
    messages: tuple[str, ...] = ()
    iterations: tuple[int, ...] = ()
    kkt: KKTReport | None = None
    fixed_point_residual: Tensor | None = None
    inner: Mapping[str, Solution] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[int, ...]:
        """Indices of the samples whose status is not OPTIMAL."""
        return tuple(i for i, status in enumerate(self.status) if not status.ok)


@dataclass(frozen=True)
class AdjointSolution:
    """Result of an adjoint solve (I - Φᵀ) v = g for a batch of B samples.

    Attributes:
        adjoint: v. Shape (B, s).
        residual: ‖g - (I - Φᵀ) v‖₂ of the returned v, absolute. Shape (B,).
        iterations: Products with Φᵀ used per sample. Shape (B,), int64.
        converged: Shape (B,), bool.
        solved_by: Name of the method that served each sample; empty where there is only one.
        null_vector: For samples whose I - Φᵀ was found singular (and the system consistent), a
            random vector of its null space; zero for the others. None where none was found. The
            fold uses it to test whether Ψᵀv is unique all the same. Shape (B, s).
        messages: Why that method, or why none, per sample; empty where there is only one.
    """

    adjoint: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    solved_by: tuple[str, ...] = ()
    null_vector: Tensor | None = None
    messages: tuple[str, ...] = ()
