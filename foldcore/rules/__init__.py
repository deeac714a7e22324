"""Toolkit for update rules: gradient steps, spectra, constants kept between calls, Φ of one recorded step."""

from ..atoms.stacked import StackedTerms
from ..optimality.duals import RecoveredDuals, recover_duals
from ..optimality.subgradient import RecoveredSubgradient, recover_subgradient
from .constants import Constants, RuleOfConstants, prepared_projection
from .curvature import largest_curvature
from .gradient_step import GradientStep
from .linearise import linearise
from .primal_dual import PrimalDualState
from .spectrum import fastest_step, ritz_values, spectral_radius

__all__ = [
    "Constants",
    "GradientStep",
    "PrimalDualState",
    "RecoveredDuals",
    "RecoveredSubgradient",
    "RuleOfConstants",
    "StackedTerms",
    "fastest_step",
    "largest_curvature",
    "linearise",
    "prepared_projection",
    "recover_duals",
    "recover_subgradient",
    "ritz_values",
    "spectral_radius",
]
