"""DAQPSolver: small dense QPs and LPs by a dual active-set method.

Source: Arnström, Bemporad, Axehill, "A dual active-set solver for embedded quadratic programming
using recursive LDLᵀ updates", IEEE Transactions on Automatic Control 67 (2022), 4362-4369.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from foldcore import Sparse
from foldcore.interfaces import Capabilities, PluginConfig, ProblemClass, ProgramStructure
from foldcore.numerics import is_positive_definite
from foldcore.solvers import SampleModel, SampleSolver

from .config import DAQPConfig
from .model import DAQPModel

LARGEST_VARIABLES = 200
LARGEST_ROWS = 1000
"""Sizes up to which DAQP is the default: its factors are dense, its iterations grow with the rows."""


class DAQPSolver(SampleSolver):
    """DAQP. Sparse data are made dense; a batch is solved sample by sample, or by ``workers``.

    Invariant: without a warm start the result of a sample depends, bit for bit, on that sample's
    data and the options alone (``time_limit`` set aside).
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = DAQPConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset({ProblemClass.LP, ProblemClass.QP}),
        duals=True,
        warm_start=True,
        history_free="bitwise",
    )

    def __init__(self, config: DAQPConfig) -> None:
        self.config: DAQPConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        if structure.problem_class not in cls.capabilities.problem_classes:
            return 0.0
        if not _small_and_dense(structure):
            return 1.0
        definite = structure.problem_class is ProblemClass.QP and _may_be_definite(structure)
        return 25.0 if definite else 9.0

    def model(self, structure: ProgramStructure, *, single_thread: bool) -> SampleModel:
        return DAQPModel(self.config, structure)


def _small_and_dense(structure: ProgramStructure) -> bool:
    template = structure.template
    sparse = any(isinstance(m, Sparse) for m in (template.P, template.A, template.G))
    rows = structure.n_equality + structure.n_inequality
    return not sparse and structure.n <= LARGEST_VARIABLES and rows <= LARGEST_ROWS


def _may_be_definite(structure: ProgramStructure) -> bool:
    P = structure.template.P
    if not isinstance(P, Tensor):
        return True
    return bool(is_positive_definite(P.double() + P.double().mT))
