"""Synthetic assets and their prices.

Source: Elmachtoub, Grigas, "Smart Predict, then Optimize" (2022), Appendix D, from which section E.4 of
the paper takes its data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import PaperError
from ...experiment import Settings

_RISK_TOLERANCE = 2.25
"""γ as a multiple of the risk of the portfolio that holds all assets alike."""


class MarketSettings(Settings):
    """Sizes of the generated market.

    Attributes:
        assets: Length n of the price vector. 20 in the paper, 50 in its source.
        features: Length p of the feature vector.
        factors: Columns of L.
        noise: τ, which scales both kinds of noise.
    """

    assets: int = 20
    features: int = 5
    factors: int = 4
    noise: float = 1.0


@dataclass(frozen=True)
class Market:
    """One draw of B and L, with training and test data of one degree. All float64.

    Attributes:
        covariance: V = L Lᵀ + (0.01 τ)² I, in squared units of price. Shape (n, n).
        gamma: The largest variance allowed: 2.25 times the mean entry of V.
        train_features, test_features: Standard normal. Shape (N, p).
        train_prices, test_prices: Shape (N, n).
    """

    covariance: Tensor
    gamma: float
    train_features: Tensor
    train_prices: Tensor
    test_features: Tensor
    test_prices: Tensor


def generate_market(
    settings: MarketSettings, degree: int, seed: int, *, n_train: int, n_test: int
) -> Market:
    """Draw a market; markets of one seed differ between degrees in the degree alone.

    Prices are (0.05/√p Bx + 0.1^(1/degree))^degree + L f + 0.01 τ ε with B Bernoulli(½), f and ε standard
    normal and L uniform on ±0.0025 τ.

    Raises:
        PaperError: If an asset alone satisfies the risk constraint. Some portfolios would then lie
            at a vertex, for which :mod:`.reference` has no formula.
    """
    generator = torch.Generator().manual_seed(seed)
    n, p, k, tau = settings.assets, settings.features, settings.factors, settings.noise
    mixing = torch.bernoulli(torch.full((n, p), 0.5, dtype=torch.float64), generator=generator)
    loadings = torch.rand(n, k, generator=generator, dtype=torch.float64)
    loadings = 0.0025 * tau * (2 * loadings - 1)
    count = n_train + n_test
    features, factors, noise = (
        torch.randn(count, size, generator=generator, dtype=torch.float64) for size in (p, k, n)
    )
    signal = (0.05 * features @ mixing.T / p**0.5 + 0.1 ** (1 / degree)) ** degree
    prices = signal + factors @ loadings.T + 0.01 * tau * noise
    covariance = loadings @ loadings.T + (0.01 * tau) ** 2 * torch.eye(n, dtype=torch.float64)
    gamma = _RISK_TOLERANCE * float(covariance.mean())
    if float(covariance.diagonal().min()) <= gamma:
        raise PaperError(
            f"portfolio: with {n} assets, one asset alone has a variance below gamma = {gamma:.2e}, so "
            f"that portfolios may lie at a vertex. Raise market.assets or lower market.factors."
        )
    return Market(
        covariance=covariance,
        gamma=gamma,
        train_features=features[:n_train],
        train_prices=prices[:n_train],
        test_features=features[n_train:],
        test_prices=prices[n_train:],
    )
