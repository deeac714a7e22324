"""Opened: a solver's session on one problem, for tests that look at its answers without a layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..interfaces.solver import Session, Solver
from ..optimality.kkt import kkt_report
from ..problem.quadratic import QuadraticProgram
from ..program.program import SmoothProgram
from ..solution import Solution

_PARTS = ("equality", "inequality", "lower", "upper")


class Opened:
    """A problem with its session.

    Args:
        solver: The solver, with its options.
        problem: What it is opened on.
    """

    def __init__(self, solver: Solver, problem: QuadraticProgram) -> None:
        self.problem = problem
        self.session: Session = solver.open(problem.structure)

    def bind(self, batch: int, values: Mapping[str, Tensor]) -> SmoothProgram:
        """Return the program of a batch; values are ``(*shape)`` or ``(B, *shape)``."""
        return self.problem.bind({**self.problem.constants, **values}, batch)

    def solve(
        self, batch: int, values: Mapping[str, Tensor], warm: Solution | None = None
    ) -> Solution:
        """Solve a batch, all that varies counting as changed."""
        changed = frozenset(self.problem.varying)
        return self.session.solve(self.bind(batch, values), changed=changed, warm_start=warm)

    def residual(self, batch: int, values: Mapping[str, Tensor], solution: Solution) -> Tensor:
        """Return the scaled KKT residual with the solver's own multipliers. Shape (B,)."""
        program = self.bind(batch, values)
        return kkt_report(program, solution.primal, solution.duals)[0].residual


def same_sample(left: Solution, right: Solution, i: int = 0, j: int = 0) -> bool:
    """Return whether sample i of one solution is, bit for bit, sample j of the other, duals included."""
    return torch.equal(left.primal[i], right.primal[j]) and all(
        torch.equal(getattr(left.duals, part)[i], getattr(right.duals, part)[j]) for part in _PARTS
    )
