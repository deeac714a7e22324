"""ClarabelSolver: LPs, convex QPs and convex QCQPs by an interior-point method.

Source: Goulart and Chen, "Clarabel: An interior-point solver for conic programs with quadratic
objectives", arXiv 2405.12762 (2024).
"""

from __future__ import annotations

from typing import ClassVar

from foldcore.interfaces import Capabilities, PluginConfig, ProblemClass, ProgramStructure
from foldcore.solvers import SampleModel, SampleSolver

from .config import ClarabelConfig
from .model import ClarabelModel

_RANKS = {ProblemClass.QCQP: 12.0, ProblemClass.QP: 6.0, ProblemClass.LP: 6.0}


class ClarabelSolver(SampleSolver):
    """Clarabel. Sparse data stay sparse; a batch is solved sample by sample, or by ``workers``.

    Invariant: the result of a sample depends, bit for bit, on that sample's data and the options
    alone (``time_limit`` and several threads set aside).
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = ClarabelConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset(_RANKS),
        duals=True,
        threads=True,
        history_free="bitwise",
    )

    def __init__(self, config: ClarabelConfig) -> None:
        self.config: ClarabelConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return _RANKS.get(structure.problem_class, 0.0)

    def model(self, structure: ProgramStructure, *, single_thread: bool) -> SampleModel:
        return ClarabelModel(self.config, structure, single_thread=single_thread)
