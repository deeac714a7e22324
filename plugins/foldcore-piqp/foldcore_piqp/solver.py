"""PIQPSolver: LPs and convex QPs by a proximal interior-point method.

Source: Schwan, Jiang, Kuhn, Jones, "PIQP: A proximal interior-point quadratic programming solver",
62nd IEEE Conference on Decision and Control (2023), 1088-1093.
"""

from __future__ import annotations

from typing import ClassVar

from foldcore.interfaces import Capabilities, PluginConfig, ProblemClass, ProgramStructure
from foldcore.solvers import SampleModel, SampleSolver

from .config import PIQPConfig
from .model import PIQPModel


class PIQPSolver(SampleSolver):
    """PIQP, dense or sparse. A batch is solved sample by sample, or by ``workers``.

    Invariant: the result of a sample depends, bit for bit, on that sample's data and the options
    alone.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = PIQPConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset({ProblemClass.LP, ProblemClass.QP}),
        duals=True,
        history_free="bitwise",
    )

    def __init__(self, config: PIQPConfig) -> None:
        self.config: PIQPConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 7.0 if structure.problem_class in cls.capabilities.problem_classes else 0.0

    def model(self, structure: ProgramStructure, *, single_thread: bool) -> SampleModel:
        return PIQPModel(self.config, structure)
