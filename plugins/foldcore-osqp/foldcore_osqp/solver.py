"""OSQPSolver: LPs and convex QPs by the operator splitting of OSQP.

Source: Stellato, Banjac, Goulart, Bemporad, Boyd, "OSQP: an operator splitting solver for quadratic
programs", Mathematical Programming Computation 12 (2020), 637-672.
"""

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

from .config import OSQPConfig
from .session import OSQPSession


class OSQPSolver(Solver):
    """OSQP with polishing. Sparse data stay sparse; a batch is solved sample by sample.

    Invariant: without a warm start the result of a sample depends, bit for bit, on that sample's
    data and the options alone, not on earlier solves nor on the other samples of the batch
    (``time_limit`` set aside).
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = OSQPConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset({ProblemClass.LP, ProblemClass.QP}),
        duals=True,
        warm_start=True,
        history_free="bitwise",
    )

    def __init__(self, config: OSQPConfig) -> None:
        self.config: OSQPConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 20.0 if structure.problem_class in cls.capabilities.problem_classes else 0.0

    def open(self, structure: ProgramStructure) -> Session:
        return OSQPSession(self.config, structure)
