"""QpthSolver: batched, strictly convex QPs by qpth's interior-point method, differentiable by itself.

Source: Amos, Kolter, "OptNet: differentiable optimization as a layer in neural networks", ICML 2017.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from foldcore.interfaces import (
    Capabilities,
    PluginConfig,
    ProblemClass,
    ProgramStructure,
    Session,
    Solver,
)
from foldcore.numerics import is_positive_definite

from .config import QpthConfig
from .session import QpthSession


class QpthSolver(Solver):
    """qpth with its gaps closed: what it cannot take is translated, what it gets wrong is noticed.

    Invariant: a returned sample of status OPTIMAL satisfies its constraints to 1e-6, and it and
    its derivative pass a check to ``check_rtol``. Gradients of data shared by the
    batch are sums over the samples. A second derivative raises.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = QpthConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset({ProblemClass.QP}),
        native_batch=True,
        threads=True,
        differentiable=True,
        history_free="bitwise",
    )

    def __init__(self, config: QpthConfig) -> None:
        self.config: QpthConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 2.0 if structure.problem_class is ProblemClass.QP else 0.0

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        reason = super().unsupported_reason(structure)
        P = structure.template.P
        if reason is None and isinstance(P, Tensor) and not bool(is_positive_definite(P + P.mT)):
            return "P is constant and singular, qpth needs it positive definite"
        return reason

    def open(self, structure: ProgramStructure) -> Session:
        return QpthSession(self.config)
