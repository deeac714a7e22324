"""What one fold is made of, as its forward and backward passes see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..config import FoldConfig
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.rule import InnerFold, UpdateRule
from ..interfaces.solver import Solver
from ..problem.parametric import ParametricProblem


@dataclass(frozen=True)
class Parts:
    """The parts of a fold; see :class:`foldcore.fold.Fold`.

    Attributes:
        owner: The layer, whose life bounds that of the solver's sessions.
    """

    problem: ParametricProblem
    solver: Solver
    rule: UpdateRule | None
    adjoint: AdjointSolver | None
    config: FoldConfig
    path: str
    inner: Mapping[str, InnerFold]
    owner: object

    @property
    def subject(self) -> str:
        """How messages name the fold."""
        return f"foldcore layer at {self.path}" if self.path else "foldcore layer"


def polishes(parts: Parts) -> bool:
    """Return whether the fold polishes, so that the solver's own answer is not the one to be judged."""
    return parts.rule is not None and parts.config.fixed_point.polish > 0
