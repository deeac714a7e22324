"""The folded smooth top-k layer: a black box forwards, projected gradient descent backwards."""

from __future__ import annotations

import torch
from torch import Tensor

import foldcore as fc

from .bisection import bisect_top_k


def smooth_top_k(n: int, k: int, temperature: float) -> fc.Fold:
    """Build x*(c) = argmin -cᵀx + τ Σ x log x over the capped simplex {0 <= x <= 1, Σ x = k}.

    Forwards a bisection finds x*. Backwards one projected gradient step is folded, whose projection
    is a QP that qpth solves and differentiates: f-PGDa of Kotary, Dinh, Fioretto, "Backpropagation
    of Unrolled Solvers with Folded Optimization", appendix E.3. Their equation (19) prints the
    entropy with the wrong sign; the problem solved here is the concave one, as a minimisation.

    Call the layer in float64: the Hessian τ/x is as ill-conditioned as max x / min x. Where a
    gradient is wanted, avoid rows of c that are exactly uniform, such as a zero-initialised last
    layer produces: qpth returns NaN or stale multipliers there, and its plugin has to solve anew.

    Args:
        n: Number of classes.
        k: Sum of x, 1 <= k < n.
        temperature: τ > 0, in units of c.

    Returns:
        A layer with the parameter c, (n,) or (B, n).
    """

    def objective(x: Tensor, c: Tensor) -> Tensor:
        return -(c @ x) + temperature * (x * torch.log(x)).sum()

    # The Hessian τ/x has no eigenvalue below τ, so that this step spreads the eigenvalues that gmres
    # sees no further than any other. A constant saves a power iteration for 1/L at every sample.
    step_size = 1 / temperature
    problem = fc.Problem(
        n,
        objective,
        params={"c": fc.Param(n)},
        constraints=[fc.CappedSimplex(float(k))],
        convex=True,
    )
    return fc.build(
        {
            "problem": problem,
            "solver": bisect_top_k(k, temperature),
            "rule": {
                "kind": "pgd",
                "step_size": step_size,
                "projection": "inner",
                "inner": {"solver": "qpth"},
            },
            "adjoint": "gmres",
        }
    )
