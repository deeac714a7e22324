"""From a primal point to the dual state w: exactly on the active set, by bounded least squares beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import accelerate, factor_definite, recover_subgradient, solve_factored

from .dual_problem import DualProblem

_SINGULAR = 1e-12
"""Squared relative size of a Cholesky pivot below which rows of D at zero count as dependent."""


_ZERO_TOLERANCES = (1e-6, 1e-4, 1e-2, 1e-9)
"""|(Dx)_i| up to this, relative to 1 + ‖Dx‖∞, counts as 0: the first that serves a sample is taken."""


def lift_absolute(
    dual: DualProblem, x: Tensor, gradient: Tensor, bound: Tensor, step_size: Tensor
) -> Tensor:
    """Return w for g = Σ bound_i |·|: w_i = -bound_i·sign((Dx)_i), the rest from (D x(w))_i = 0.

    Rows of D at zero that are linearly dependent leave w without uniqueness (two-dimensional
    total variation): then any w with |w| <= bound that fits Dᵀw = Px + q is taken. Which entries are zero
    is read off x; an inaccurate solver leaves them larger, so that several tolerances are tried.

    Args:
        dual: The bound dual problem.
        x: A (near) optimal point. Shape (B, n).
        gradient: Px + q. Shape (B, n).
        bound: The dual box. Shape (B, k).
        step_size: α of the rule whose residual measures a state. Shape (B,).
    """
    best, smallest = dual.zeros(), x.new_full((x.shape[0],), torch.inf)
    for tolerance in _ZERO_TOLERANCES:
        w = _lift_at(dual, x, gradient, bound, tolerance)
        residual = (dual.descend(w, step_size) - w).abs().amax(-1) / step_size
        better = residual < smallest
        best = torch.where(better[:, None], w, best)
        smallest = torch.where(better, residual, smallest)
        size = 1 + dual.terms.image(x).abs().amax(-1)
        if bool((smallest <= 1e4 * torch.finfo(x.dtype).eps * size).all()):
            break
    return best


def _lift_at(
    dual: DualProblem, x: Tensor, gradient: Tensor, bound: Tensor, tolerance: float
) -> Tensor:
    image = dual.terms.image(x)
    size = 1 + image.abs().amax(-1, keepdim=True)
    free = image.abs() <= tolerance * size
    fixed = torch.where(free, torch.zeros_like(image), -bound * image.sign())
    w, regular = _on_active_set(dual, free, fixed)
    doubtful = ~regular | (w.abs() > bound * (1 + 1e-9)).any(-1)
    if bool(doubtful.any()):
        matrix = dual.matrix.expand(x.shape[0], -1, -1)
        for i in torch.nonzero(doubtful).flatten().tolist():
            w[i] = _fit(matrix[i], gradient[i], free[i], fixed[i], bound[i])
        w = torch.where(doubtful[:, None], _settled(dual, w, bound, free), w)
    return w.minimum(bound).maximum(-bound)


def _on_active_set(dual: DualProblem, free: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """Solve (D x(w))_i = 0 over the free i, by one batched Cholesky of the masked D P⁻¹ Dᵀ."""
    mask = free.to(fixed.dtype)
    gram = mask.unsqueeze(-1) * dual.gram * mask.unsqueeze(-2) + torch.diag_embed(1 - mask)
    factor, regular = factor_definite(gram, _SINGULAR)
    w = fixed
    for _ in range(2):  # the second pass is iterative refinement
        residual = mask * dual.terms.image(dual.primal(w))
        w = w - mask * solve_factored(factor, residual)
    return torch.where(regular[:, None], w, fixed), regular


def _fit(matrix: Tensor, gradient: Tensor, free: Tensor, fixed: Tensor, bound: Tensor) -> Tensor:
    """Return w of one sample: least squares of Dᵀw = Px + q with |w| <= bound on the free rows."""
    from scipy.optimize import lsq_linear  # scipy stays out of the plugin's import

    rows = free & (bound > 0)
    w = fixed.clone()
    if not bool(rows.any()):
        return w
    target = (gradient - fixed @ matrix).double().cpu().numpy()
    limit = bound[rows].double().cpu().numpy()
    fit = lsq_linear(matrix[rows].double().cpu().numpy().T, target, (-limit, limit), tol=1e-14)
    w[rows] = torch.from_numpy(fit.x).to(w)
    return w


def _settled(dual: DualProblem, w: Tensor, bound: Tensor, free: Tensor) -> Tensor:
    """Undo what the point's own error left in a fitted w: dual steps near it, rows off zero held."""
    step_size = _inverse(1.05 * dual.curvature)
    held, image, low = step_size[:, None] * free.to(w.dtype), dual.image_map(), -bound

    def step(state: Tensor) -> Tensor:
        return torch.addcmul(state, held, image(state), value=-1).clamp_(low, bound)

    return accelerate(step, w, step_size=step_size, rtol=1e-13, atol=1e-13, max_iter=2000).state


def lift_general(dual: DualProblem, x: Tensor, gradient: Tensor) -> Tensor:
    """Return w for any g: minus the subgradient recovered at x, settled by dual steps."""
    start = -recover_subgradient(dual.terms, x, gradient, rtol=1e-12).value
    step_size = _inverse(1.05 * dual.curvature)
    return accelerate(
        dual.descent(step_size),
        start,
        step_size=step_size,
        rtol=1e-13,
        atol=1e-13,
        max_iter=5000,
    ).state


def _inverse(curvature: Tensor) -> Tensor:
    return torch.where(curvature > 0, 1 / curvature, torch.ones_like(curvature))
