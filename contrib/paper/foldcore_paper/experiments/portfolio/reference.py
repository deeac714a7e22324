"""The exact solution of (20) and its derivative, from formulas; no solver and no layer is involved.

With W = V/γ and the assets held, F, the KKT conditions of max cᵀx, xᵀWx <= 1, 1ᵀx = 1, x >= 0 are
c_F = s W_F x_F + ν 1 with both constraints active. So x_F = W_F⁻¹(c_F - ν1)/s, and with
α = 1ᵀW_F⁻¹1, β = 1ᵀW_F⁻¹c_F, δ = c_FᵀW_F⁻¹c_F the two constraints give

    s² = (δ - β²/α) / (1 - 1/α),    ν = (β - s)/α.

F is right if and only if x_F >= 0 and ν + s(Wx)_i >= c_i for the others: the problem is convex.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import PaperError

_BLOCK_STEPS, _MAX_STEPS = 30, 400
"""Changes of F as a whole, then by one asset at a time, before giving up."""


@dataclass(frozen=True)
class ExactPortfolios:
    """Solutions for a batch of B price vectors.

    Attributes:
        weights: x*. Shape (B, n).
        held: F. Shape (B, n), bool.
        scale: s, the multiplier of xᵀWx/2 <= 1/2. Shape (B,).
        scaled: W = V/γ. Shape (n, n).
    """

    weights: Tensor
    held: Tensor
    scale: Tensor
    scaled: Tensor

    @property
    def free_directions(self) -> Tensor:
        """Dimension in which x* moves with the prices: |F| - 2. Shape (B,)."""
        return self.held.sum(-1) - 2

    def gradient(self, cotangent: Tensor) -> Tensor:
        """Return the gradient of <x*(c), cotangent> with respect to c. Shapes (B, n).

        Differentiating the KKT conditions gives [[sW_F, Wx, 1], [xᵀW, 0, 0], [1ᵀ, 0, 0]], which is
        symmetric, so the adjoint system has the same matrix.
        """
        batch, n = cotangent.shape
        free = self.held.to(cotangent.dtype)
        matrix = cotangent.new_zeros(batch, n + 2, n + 2)
        matrix[:, :n, :n] = self.scale[:, None, None] * _restricted(self.scaled, self.held)
        rows = torch.stack([free * (self.weights @ self.scaled), free], dim=1)
        matrix[:, n:, :n], matrix[:, :n, n:] = rows, rows.mT
        right = torch.cat([free * cotangent, cotangent.new_zeros(batch, 2)], dim=-1)
        solved: Tensor = torch.linalg.solve(matrix, right)
        return solved[:, :n] * free


def solve_exactly(prices: Tensor, covariance: Tensor, gamma: float) -> ExactPortfolios:
    """Solve max cᵀx s.t. xᵀVx <= γ, 1ᵀx = 1, x >= 0 to rounding.

    Args:
        prices: c. Shape (B, n), float64.
        covariance: V, each diagonal entry above γ. Shape (n, n).
        gamma: γ.

    Raises:
        PaperError: If F was not found for a sample; all prices alike, for instance, have no unique x*.
    """
    scaled = covariance / gamma
    prices = prices - prices.mean(
        -1, keepdim=True
    )  # leaves x*, and saves digits where c is nearly even
    held = torch.ones_like(prices, dtype=torch.bool)
    done = torch.zeros(len(prices), dtype=torch.bool)
    weights, scale = torch.zeros_like(prices), torch.ones_like(prices[:, 0])
    for step in range(_MAX_STEPS):
        todo = torch.nonzero(~done).flatten()
        if not len(todo):
            return ExactPortfolios(weights, held, scale, scaled)
        x, s, slack = _portfolios(prices[todo], held[todo], scaled)
        # What violates its condition: a held asset its sign, another asset its multiplier's.
        violation = torch.where(held[todo], -x, -slack).nan_to_num(nan=0.0)
        tolerance = 1e-14 * torch.where(held[todo], 1.0, prices[todo].abs().amax(-1, keepdim=True))
        wrong = (violation > tolerance) & torch.isfinite(s)[:, None]
        weights[todo], scale[todo] = x, s
        done[todo] = torch.isfinite(s) & ~wrong.any(-1)
        if step >= _BLOCK_STEPS:
            worst = torch.zeros_like(wrong)
            worst[torch.arange(len(todo)), (violation * wrong).argmax(-1)] = True
            wrong = wrong & worst
        held[todo] = held[todo] ^ wrong
    samples = torch.nonzero(~done).flatten().tolist()
    raise PaperError(
        f"portfolio: no exact solution for {len(samples)} price vectors, the first is sample "
        f"{samples[0]}: {prices[samples[0]].tolist()}. Predictions that are equal for all assets have none."
    )


def _portfolios(prices: Tensor, held: Tensor, scaled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, s and the multipliers of x >= 0 for given F; s is NaN where F allows no portfolio."""
    free = held.to(prices.dtype)
    factor = torch.linalg.cholesky(_restricted(scaled, held))
    right = torch.stack([free, free * prices], dim=-1)
    one, cost = (torch.cholesky_solve(right, factor) * free[..., None]).unbind(-1)
    alpha, beta = one.sum(-1), cost.sum(-1)
    # δ - β²/α = (c - β/α)ᵀW⁻¹(c - β/α), without the cancellation.
    centred = free * (prices - (beta / alpha)[:, None])
    spread = (centred * (cost - (beta / alpha)[:, None] * one)).sum(-1)
    scale = (spread / (1 - 1 / alpha)).sqrt()
    nu = (beta - scale) / alpha
    x = (cost - nu[:, None] * one) / scale[:, None]
    slack = nu[:, None] + scale[:, None] * (x @ scaled) - prices
    return x, torch.where(scale > 0, scale, float("nan")), slack


def _restricted(matrix: Tensor, held: Tensor) -> Tensor:
    """Return the matrix on F x F, and the identity elsewhere. Shape (B, n, n)."""
    free = held.to(matrix.dtype)
    return free[:, :, None] * matrix * free[:, None, :] + torch.diag_embed(1 - free)
