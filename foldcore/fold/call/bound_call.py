"""One call's problem, bound once: again only after samples have failed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...problem.parametric import ParametricProblem
from ...program.lowering import Lowering
from ...program.program import SmoothProgram
from .inputs import Inputs
from .verdicts import Verdicts, repaired_inputs


@dataclass(frozen=True)
class BoundCall:
    """What the passes of one call work on.

    Attributes:
        inputs: The arguments, failed samples replaced by a good one.
        program: The problem bound to them, on the graph where gradients are enabled.
        lowering: That of the same program detached, for solvers and certificates.
    """

    inputs: Inputs
    program: SmoothProgram
    lowering: Lowering


class Call:
    """The arguments of one call of a layer and what has become of its samples.

    Attributes:
        given: The arguments as they came.
        verdicts: Status per sample.
    """

    def __init__(self, problem: ParametricProblem, given: Inputs, verdicts: Verdicts) -> None:
        self.given, self.verdicts = given, verdicts
        self._problem = problem
        self._bound: BoundCall | None = None
        self._failures = 0

    def bound(self) -> BoundCall:
        """Return the bound problem; the same one until a further sample fails."""
        bound = self._bound
        if bound is None or self._failures != self.verdicts.failures:
            bound = self._bound = self._bind()
            self._failures = self.verdicts.failures
        return bound

    def _bind(self) -> BoundCall:
        inputs = repaired_inputs(self.given, self.verdicts)
        program = self._problem.bind(inputs.values, inputs.batch)
        with torch.no_grad():
            lowering = Lowering(program.detached() if inputs.needing_grad else program)
        return BoundCall(inputs, program, lowering)
