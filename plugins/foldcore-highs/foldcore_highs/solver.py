"""HighsSolver: LPs by simplex, interior point or PDLP, convex QPs by an active-set method.

Integer LPs are solved by branch and cut.

Source: Huangfu and Hall, "Parallelizing the dual revised simplex method", Mathematical Programming
Computation 10 (2018), 119-142; https://highs.dev.
"""

from __future__ import annotations

from typing import ClassVar

from foldcore.interfaces import Capabilities, PluginConfig, ProblemClass, ProgramStructure
from foldcore.solvers import SampleModel, SampleSolver

from .config import HighsConfig
from .model import HighsModel


class HighsSolver(SampleSolver):
    """HiGHS. Sparse data stay sparse; a batch is solved sample by sample, or by ``workers``.

    Invariant: without a warm start the result of a sample depends, bit for bit, on that sample's
    data and the options alone (``time_limit`` set aside).
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = HighsConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset({ProblemClass.LP, ProblemClass.QP}),
        duals=True,
        warm_start=True,
        threads=True,
        discrete=True,
        history_free="bitwise",
    )

    def __init__(self, config: HighsConfig) -> None:
        self.config: HighsConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return {ProblemClass.LP: 25.0, ProblemClass.QP: 8.0}.get(structure.problem_class, 0.0)

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.problem_class is ProblemClass.QP and self.config.method != "choose":
            return f"method {self.config.method!r} is for LPs; QPs need method 'choose'"
        if structure.integer and structure.problem_class is ProblemClass.QP:
            return "HiGHS solves integer LPs, but no integer QPs"
        return super().unsupported_reason(structure)

    def model(self, structure: ProgramStructure, *, single_thread: bool) -> SampleModel:
        return HighsModel(self.config, structure, single_thread=single_thread)
