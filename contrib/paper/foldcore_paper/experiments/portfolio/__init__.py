"""Figure 4c and E.4: risk-constrained portfolios of predicted prices, equation (20)."""

from .experiment import PortfolioExperiment
from .settings import PortfolioSettings

__all__ = ["PortfolioExperiment", "PortfolioSettings"]
