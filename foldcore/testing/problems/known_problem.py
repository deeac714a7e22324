"""A problem with its solution: what solvers and rules are checked against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...interfaces.solver import IterationMap
from ...problem.parametric import ParametricProblem
from ...program.lowering import Lowering
from ...program.program import SmoothProgram
from ...solution import Duals, Solution, Status


@dataclass(frozen=True)
class KnownProblem:
    """A parametric problem, a batch of data, and the KKT point that the data were made for.

    Invariant: ``primal`` and ``duals`` satisfy the KKT conditions of ``values`` to rounding in
    float64, strictly complementary, with linearly independent active constraints and second-order
    sufficiency, so that the solution is differentiable and its multipliers are unique.

    Attributes:
        name: Unique, for messages.
        problem: The declaration.
        values: A tensor in float64 for every param, ``(*shape)`` or ``(B, *shape)``.
        primal: x*. Shape (B, n).
        duals: Of the declared problem's rows; None where it has nonsmooth terms.
        unique: Whether x* is the only local solution, so that a solver must return it.
        iteration: For problems that solvers which run a rule are checked on: program -> map.
    """

    name: str
    problem: ParametricProblem
    values: Mapping[str, Tensor]
    primal: Tensor
    duals: Duals | None = None
    unique: bool = True
    iteration: Callable[[SmoothProgram], IterationMap] | None = None

    @property
    def batch(self) -> int:
        return int(self.primal.shape[0])

    def bind(
        self, dtype: torch.dtype = torch.float64, *, values: Mapping[str, Tensor] | None = None
    ) -> SmoothProgram:
        """Return the declared program with parameters bound.

        Args:
            dtype: Of everything in it.
            values: In place of the problem's own; kept on the graph.
        """
        given = {**self.problem.constants, **(self.values if values is None else values)}
        bound = {k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}
        return self.problem.bind(bound, self.batch)

    def lowered(
        self, dtype: torch.dtype = torch.float64, *, values: Mapping[str, Tensor] | None = None
    ) -> SmoothProgram:
        """Return the program as solvers see it: without nonsmooth terms that have rows."""
        return Lowering(self.bind(dtype, values=values)).program

    def solution(self, dtype: torch.dtype = torch.float64, *, duals: bool = True) -> Solution:
        """Return x*, with its multipliers if asked for."""
        known = self.duals if duals else None
        if known is not None:
            known = known.map(lambda value: value.to(dtype))
        return Solution(self.primal.to(dtype), (Status.OPTIMAL,) * self.batch, known)

    def batched(self, name: str) -> bool:
        """Whether the values of a param differ between samples."""
        return self.values[name].ndim > len(self.problem.params[name].shape)

    def rows(self, index: list[int]) -> KnownProblem:
        """Return the problem with these samples, which may repeat."""
        duals = self.duals
        if duals is not None:
            duals = duals.map(lambda value: value[index])
        values = {k: v[index] if self.batched(k) else v for k, v in self.values.items()}
        return replace(self, values=values, primal=self.primal[index], duals=duals)

    def with_values(self, **values: Tensor) -> KnownProblem:
        """Return the problem with other data, for which the solution is not known any more."""
        return replace(self, values={**self.values, **values})
