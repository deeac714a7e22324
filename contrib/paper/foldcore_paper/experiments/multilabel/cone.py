"""The smooth top-k as cvxpylayers takes it: a cone program that SCS solves and diffcp differentiates."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import torch
from cvxpy.atoms.elementwise.entr import entr
from cvxpylayers.torch.cvxpylayer import CvxpyLayer
from torch import Tensor

from .settings import ConeSettings


class ConeProgram:
    """max cᵀx + τ Σ entr(x) s.t. x <= 1, Σ x = k, by cvxpylayers.

    Args:
        n: Number of classes.
        k: Sum of x.
        temperature: τ.
        settings: Tolerances of SCS and mode of the derivative; None for cvxpylayers' own defaults.
    """

    def __init__(self, n: int, k: int, temperature: float, settings: ConeSettings | None) -> None:
        x, c = cp.Variable(n), cp.Parameter(n)
        value = c @ x + temperature * entr(x).sum()
        problem = cp.Problem(cp.Maximize(value), [x <= 1, x.sum() == k])
        self._layer = CvxpyLayer(problem, parameters=[c], variables=[x])
        # cvxpylayers' default is as many threads as cores, but runs are spread over processes.
        self._solving: dict[str, Any] = {"n_jobs_forward": 1}
        self._differentiating: dict[str, Any] = {"n_jobs_backward": 1}
        if settings is not None:
            self._solving = {
                "n_jobs_forward": settings.threads,
                "eps": settings.eps,
                "max_iters": settings.max_iters,
            }
            self._differentiating = {"n_jobs_backward": settings.threads, "mode": settings.mode}

    def __call__(self, c: Tensor) -> Tensor:
        """Return x*(c), (B, n) -> (B, n), with diffcp's derivative."""
        options = dict(self._solving)
        if c.requires_grad and torch.is_grad_enabled():
            # Without a gradient, cvxpylayers hands these to SCS, which refuses them.
            options |= self._differentiating
        x: Tensor
        (x,) = self._layer(c, solver_args=options)
        return x
