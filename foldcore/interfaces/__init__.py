"""The three things a plugin can be, and what they speak of. The three do not know each other."""

from ..config import IterativeConfig, PluginConfig, PluginReference, ToleranceConfig
from ..problem.parametric import ParametricProblem
from ..program.lowering import Lowering
from ..program.program import SmoothProgram
from ..program.structure import ProblemClass, ProgramStructure
from ..quadratic.data import QuadraticData
from ..quadratic.template import QuadraticTemplate
from ..solution import AdjointSolution
from .adjoint import AdjointSolver
from .fixed_point_operator import FixedPointOperator, ZeroOperator
from .plugin import Plugin
from .rule import BoundRule, InnerFold, PreparedRule, UpdateRule
from .solver import Capabilities, IterationMap, Session, Solver

__all__ = [
    "API_VERSION",
    "OLDEST_API_VERSION",
    "AdjointSolution",
    "AdjointSolver",
    "BoundRule",
    "Capabilities",
    "FixedPointOperator",
    "InnerFold",
    "IterationMap",
    "IterativeConfig",
    "Lowering",
    "ParametricProblem",
    "Plugin",
    "PluginConfig",
    "PluginReference",
    "PreparedRule",
    "ProblemClass",
    "ProgramStructure",
    "QuadraticData",
    "QuadraticTemplate",
    "Session",
    "SmoothProgram",
    "Solver",
    "ToleranceConfig",
    "UpdateRule",
    "ZeroOperator",
]

API_VERSION = 2
"""Version of these interfaces. A plugin states the one it was written for as ``api_version``.

2 adds :meth:`UpdateRule.open`, which has a default.
"""

OLDEST_API_VERSION = 1
"""Plugins written for this version still work: what came later has defaults."""
