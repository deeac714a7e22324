"""GurobiSolver: LP, QP, QCQP and their nonconvex forms.

Source: Gurobi Optimization, LLC, "Gurobi Optimizer Reference Manual", https://docs.gurobi.com.
"""

from __future__ import annotations

from typing import ClassVar

from foldcore.interfaces import Capabilities, PluginConfig, ProblemClass, ProgramStructure
from foldcore.solvers import SampleModel, SampleSolver

from .config import GurobiConfig
from .licence import unusable_reason
from .model import GurobiModel

_RANKS = {
    ProblemClass.LP: 10.0,
    ProblemClass.QP: 10.0,
    ProblemClass.QCQP: 30.0,
    ProblemClass.NONCONVEX_QP: 30.0,
    ProblemClass.NONCONVEX_QCQP: 30.0,
}


class GurobiSolver(SampleSolver):
    """Gurobi. Sparse P, A and G stay sparse; a batch is solved sample by sample, or by ``workers``.

    Invariant: without a warm start the result of a sample depends, bit for bit, on that sample's
    data and the options alone (time limits set aside). Nonconvex problems are solved to global
    optimality; their multipliers are left to the core.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = GurobiConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset(_RANKS),
        duals=True,
        warm_start=True,
        threads=True,
        history_free="bitwise",
    )

    def __init__(self, config: GurobiConfig) -> None:
        self.config: GurobiConfig = config

    @classmethod
    def unusable_reason(cls) -> str | None:
        return unusable_reason()

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return _RANKS.get(structure.problem_class, 0.0)

    def model(self, structure: ProgramStructure, *, single_thread: bool) -> SampleModel:
        return GurobiModel(self.config, structure, single_thread=single_thread)
