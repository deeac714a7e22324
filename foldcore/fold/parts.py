"""What one fold is made of, as its forward and backward passes see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ..config import FoldConfig
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.rule import InnerFold, UpdateRule
from ..interfaces.solver import Solver
from ..problem.parametric import ParametricProblem


class Owner:
    """Whose life bounds that of native sessions: one per layer, and another one for each copy."""


@dataclass(frozen=True)
class Parts:
    """The parts of a fold; see :class:`foldcore.fold.layer.Fold`. Made once per layer.

    Attributes:
        owner: Held by nothing else than the parts, so that sessions go with the layer.
    """

    problem: ParametricProblem
    solver: Solver
    rule: UpdateRule | None
    adjoint: AdjointSolver | None
    config: FoldConfig
    path: str
    inner: Mapping[str, InnerFold]
    owner: Owner = field(default_factory=Owner)

    @cached_property
    def subject(self) -> str:
        """How messages name the fold."""
        return f"foldcore layer at {self.path}" if self.path else "foldcore layer"

    @cached_property
    def n(self) -> int:
        """Number of variables."""
        return self.problem.n

    @cached_property
    def polishes(self) -> bool:
        """Whether the fold polishes, so that the solver's own answer is not the one to be judged."""
        return self.rule is not None and self.config.fixed_point.polish > 0

    @cached_property
    def as_declared(self) -> bool:
        """Whether the solver reads the problem as declared, and not its lowering."""
        capabilities = self.solver.capabilities
        return capabilities.needs_rule or capabilities.regularizers
