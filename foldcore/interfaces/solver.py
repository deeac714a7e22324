"""Solver and Session: the black box of the forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..program.program import SmoothProgram
from ..program.structure import ProblemClass, ProgramStructure
from ..solution import Duals, Solution
from .plugin import Plugin


@dataclass(frozen=True)
class Capabilities:
    """What a solver can do; decides what build() accepts and which conformance checks run.

    Attributes:
        problem_classes: The classes it solves.
        duals: Returns multipliers.
        native_batch: Solves a batch in one call by itself.
        gpu: Accepts tensors that are not on the CPU.
        warm_start: Uses ``warm_start`` when one is given.
        threads: May use several threads for one sample.
        discrete: Solves problems of its classes with ``structure.integer`` columns too.
        regularizers: Reads ``program.regularizers`` itself; ``solve`` then receives the program as
            declared and not its lowering.
        needs_rule: Runs the update rule's own iteration; ``solve`` then receives ``iteration``.
        differentiable: Its primal carries gradients by itself, so neither rule nor adjoint is needed.
        torch_func: Works under torch.func transforms.
        twice_differentiable: Supports double backward.
        history_free: "bitwise" if a result never depends on earlier calls, "tolerance" if it
            does so only within the solver's tolerance.
    """

    problem_classes: frozenset[ProblemClass]
    duals: bool = False
    native_batch: bool = False
    gpu: bool = False
    warm_start: bool = False
    threads: bool = False
    discrete: bool = False
    regularizers: bool = False
    needs_rule: bool = False
    differentiable: bool = False
    torch_func: bool = False
    twice_differentiable: bool = False
    history_free: str = "bitwise"


@dataclass(frozen=True)
class IterationMap:
    """Read-only view of a bound rule's iteration for solvers that run it.

    Attributes:
        start: primal or None -> z₀ (B, s).
        step: z -> U(z), (B, s) -> (B, s).
        residual: (z, U(z)) -> scaled residual (B,).
        primal: z -> x (B, n).
        duals: z -> Duals or None.
        failed: Samples whose last step could not be evaluated, (B,) bool, or None.
    """

    start: Callable[[Tensor | None], Tensor]
    step: Callable[[Tensor], Tensor]
    residual: Callable[[Tensor, Tensor], Tensor]
    primal: Callable[[Tensor], Tensor]
    duals: Callable[[Tensor], Duals | None]
    failed: Callable[[], Tensor | None]


class Session(ABC):
    """A model built once for one structure and updated for each solve.

    Sessions live in a per-process cache outside the layer and are never pickled. Without a
    ``warm_start`` a result does not depend on earlier calls.
    """

    @abstractmethod
    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        """Solve a batch.

        Args:
            program: B samples with parameters bound; detached unless the solver is declared
                differentiable. QP solvers read ``program.quadratic``. Never modified.
            changed: Names of the quadratic data fields ("q", "b", …) that may differ from the
                previous call or between samples. The others are the structure's constants.
            warm_start: An earlier solution of the same batch size, or None.
            iteration: The rule's iteration where the solver declared ``needs_rule``; else None.

        Returns:
            One entry per sample. A sample that failed says so in ``status``; its primal may hold
            anything. Failures never raise.
        """

    def close(self) -> None:  # noqa: B027 - most sessions hold nothing to release
        """Release native handles. Called when the layer is gone."""


class Solver(Plugin):
    """A black-box solver. Built from its config (``Solver(config)``); keeps no native handle itself.

    Attributes:
        api_version, config_class, config: See :class:`Plugin`.
        capabilities: What it can do.
    """

    capabilities: ClassVar[Capabilities]

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        """Return a preference for this structure when the user names no solver; 0 means never."""
        return 0.0

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        """Return why it cannot solve problems of this structure, or None where it can.

        Args:
            structure: The lowered one. Terms and sets without rows are refused, but where the
                solver reads them (``regularizers``) or runs a rule that does (``needs_rule``).
        """
        as_declared = self.capabilities.needs_rule or self.capabilities.regularizers
        if structure.without_rows and not as_declared:
            names = ", ".join(structure.without_rows)
            return f"{names} cannot be written as constraint rows, which is all this solver reads"
        wanted = structure.problem_class
        if wanted in self.capabilities.problem_classes:
            return None
        offered = ", ".join(sorted(c.value for c in self.capabilities.problem_classes))
        return f"the problem is of class {wanted.value}, this solver does: {offered}"

    @abstractmethod
    def open(self, structure: ProgramStructure) -> Session:
        """Build a model for a structure: shapes, patterns and constants."""
