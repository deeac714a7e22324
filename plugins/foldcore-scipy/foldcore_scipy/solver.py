"""ScipySolver: local optima of smooth nonlinear problems by scipy.optimize.minimize."""

from __future__ import annotations

from typing import ClassVar

from foldcore.interfaces import (
    Capabilities,
    PluginConfig,
    ProblemClass,
    ProgramStructure,
    Session,
    Solver,
)

from .config import ScipyConfig
from .session import ScipySession


class ScipySolver(Solver):
    """SLSQP or trust-constr on the problem's own functions and exact derivatives.

    Invariant: without a warm start the result of a sample depends, bit for bit, on that sample's
    data and the options alone. It is a local optimum; of convex problems a global one.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = ScipyConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset(ProblemClass) - {ProblemClass.LP},
        warm_start=True,
        history_free="bitwise",
    )

    def __init__(self, config: ScipyConfig) -> None:
        self.config: ScipyConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 4.0 if structure.problem_class is ProblemClass.NLP else 0.0

    def open(self, structure: ProgramStructure) -> Session:
        return ScipySession(self.config)
