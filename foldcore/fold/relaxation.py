"""Problems with whole numbers, folded by a relaxation that the configuration names.

With some columns of x restricted to whole numbers, x*(θ) is constant in them between jumps: their
derivative is zero almost everywhere and does not exist at the jumps. What is folded is therefore
another problem, and the layer says which.

- ``continuous``: the problem without that demand, by any solver of its class.
- ``fixed_integers``: the discrete solver's whole numbers become bounds, lower = upper, and the
  continuous problem that is left is solved and folded. Between the jumps its derivative is that of
  x*(θ) itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..config import FoldConfig
from ..errors import ConfigError, ProblemError, RecognitionError
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.rule import UpdateRule
from ..interfaces.solver import Solver
from ..problem.fixed_integers import WHOLE_NUMBERS, FixedIntegers
from ..problem.parametric import ParametricProblem
from ..solution import Solution, Status
from ..solvers.sessions import session_for
from .call.bound_call import Call
from .call.inputs import Inputs
from .call.prechecks import find_bad_samples
from .call.verdicts import Verdicts
from .layer import Fold

Relaxation = Literal["continuous", "fixed_integers"]

_INTEGRALITY = 1e-4
"""Largest distance from a whole number, relative to 1 + its size: solvers allow 1e-5 themselves."""


def folded_problem(
    problem: ParametricProblem, relaxation: Relaxation | None, path: str
) -> ParametricProblem:
    """Return the problem without whole numbers that a layer folds; the problem itself if it has none.

    Args:
        relaxation: As configured at ``path``.

    Raises:
        ConfigError: If there are whole numbers and no relaxation is named, or the other way round.
    """
    columns = problem.structure.integer
    if not columns:
        if relaxation is not None:
            raise ConfigError(
                f"{path}: {relaxation!r} has no effect, since the problem declares no integer columns. "
                f"Leave it out, or declare integer=[...] in the problem."
            )
        return problem
    if relaxation is None:
        raise ConfigError(
            f"{path}: missing. The problem declares {_columns(columns)} integer, so that its "
            f"solution is piecewise constant there, and its true gradient zero almost everywhere. "
            f"Name what to fold instead: 'continuous' (the problem without that demand) or "
            f"'fixed_integers' (the whole numbers found by a discrete solver, held fixed)."
        )
    if relaxation == "continuous":
        return problem.relaxed()
    if problem.lowered_structure.without_rows:
        names = ", ".join(problem.lowered_structure.without_rows)
        raise ConfigError(
            f"{path}: 'fixed_integers' needs a problem of rows and bounds, but {names} has no rows. "
            f"Use 'continuous'."
        )
    return FixedIntegers(problem)


class RelaxedFold(Fold):
    """A fold of a relaxation; it names the relaxation and the columns, and so does every solution.

    Args:
        integer: The columns that the original problem declares integer.
        The others: as of :class:`Fold`.
    """

    def __init__(
        self,
        problem: ParametricProblem,
        *,
        integer: tuple[int, ...],
        solver: Solver,
        rule: UpdateRule | None,
        adjoint: AdjointSolver | None,
        config: FoldConfig,
        path: str,
        inner: Mapping[str, Fold],
    ) -> None:
        super().__init__(
            problem,
            solver=solver,
            rule=rule,
            adjoint=adjoint,
            config=config,
            path=path,
            inner=inner,
        )
        self.integer = integer

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self._relaxation}"

    @property
    def _relaxation(self) -> str:
        return f"relaxation: {self.config.relaxation} ({_columns(self.integer)} integer)"

    def _run(
        self,
        call: Call,
        warm_start: Solution | None,
        *,
        duals: bool,
        filler: float,
        strict: bool,
    ) -> Solution:
        solution = super()._run(call, warm_start, duals=duals, filler=filler, strict=strict)
        said = solution.messages or ("",) * len(solution.status)
        return replace(solution, messages=tuple(text or self._relaxation for text in said))


@dataclass(frozen=True)
class _FoundInputs(Inputs):
    """Inputs with the whole numbers among the values, and what became of each sample's search."""

    search: Verdicts


class FixedIntegersFold(RelaxedFold):
    """Finds the whole numbers first, without gradient, then folds the problem in which they are fixed.

    Certificates, multipliers and derivatives are those of the fixed problem. That the whole numbers
    are the best ones is the discrete solver's word, within its gap.
    """

    def inputs(self, params: Mapping[str, Tensor]) -> Inputs:
        """Check and complete the arguments, and find the whole numbers.

        A sample without them has NaN in their place. Errors as of :meth:`Fold.forward`.
        """
        given = super().inputs(params)
        search = Verdicts(given.batch)
        with torch.no_grad():
            whole = self._search(given, search)
        batched = given.batched
        if batched:
            batched = batched | {WHOLE_NUMBERS}
        else:
            whole = whole[0]
        return _FoundInputs(
            {**given.values, WHOLE_NUMBERS: whole},
            given.batch,
            batched,
            given.dtype,
            given.device,
            search,
        )

    def _search(self, inputs: Inputs, search: Verdicts) -> Tensor:
        """Return the whole numbers, (B, k), NaN for the samples that are marked as failed."""
        if not isinstance(self.problem, FixedIntegers):
            raise ProblemError(f"{self.parts.subject}: folds no problem with fixed integers.")
        original = self.problem.original
        strict = self.config.on_failure == "raise"
        subject = self.parts.subject
        call = Call(original, inputs, search)
        find_bad_samples(original, self.solver, call, subject=subject, strict=strict)
        whole = torch.full(
            (inputs.batch, len(self.integer)),
            float("nan"),
            dtype=inputs.dtype,
            device=inputs.device,
        )
        if search.dead:
            return whole
        answer = self._ask(original, call)
        found = answer.primal[:, list(self.integer)].to(inputs.device, inputs.dtype)
        nearest = found.round() + 0.0  # no negative zeros
        fractional = ~((found - nearest).abs() <= _INTEGRALITY * (1 + nearest.abs())).all(-1)
        search.fail(fractional, Status.INACCURATE, "the solver's integer columns are not whole")
        data = original.bind(inputs.detached(), inputs.batch).data
        stuck = self.problem.undroppable(data)
        if stuck is not None:
            search.fail(
                stuck.expand(inputs.batch),
                Status.INVALID_INPUT,
                "A is a dense parameter and has a row of integer columns alone, which cannot leave "
                "the fixed problem; declare A as a constant or Sparse",
            )
        allowed = max(self.config.kkt.atol, 1e4 * torch.finfo(inputs.dtype).eps)
        broken = ~(self.problem.excess(data, nearest) <= allowed)
        search.fail(broken, Status.INACCURATE, "the solver's whole numbers violate rows of theirs")
        return torch.where(search.mask(inputs.device)[:, None], whole, nearest)

    def _ask(self, original: ParametricProblem, call: Call) -> Solution:
        inputs, search, lowering = call.given, call.verdicts, call.bound().lowering
        structure = original.lowered_structure
        variant = (WHOLE_NUMBERS, inputs.dtype, inputs.device)
        session = session_for(self.parts.owner, self.solver, structure, variant)
        as_declared = self.solver.capabilities.regularizers
        answer = session.solve(
            lowering.original if as_declared else lowering.program,
            changed=frozenset(structure.template.varying),
        )
        search.merge(answer.status, answer.messages, type(self.solver).__name__)
        point = answer.primal[:, : original.n].to(inputs.device, inputs.dtype)
        good = ~search.mask(inputs.device)[:, None] & torch.isfinite(point)
        mismatch = lowering.original.asserted_mismatch(torch.where(good, point, 0.5))
        if mismatch is not None:
            raise RecognitionError(
                f"{self.parts.subject}: the asserted structure does not hold: the {mismatch} is not "
                f"the quadratic that was extracted. Leave out structure=."
            )
        return answer

    def _run(
        self,
        call: Call,
        warm_start: Solution | None,
        *,
        duals: bool,
        filler: float,
        strict: bool,
    ) -> Solution:
        if isinstance(call.given, _FoundInputs):
            search = call.given.search
            call.verdicts.merge(search.status, search.messages, "search for whole numbers")
        return super()._run(call, warm_start, duals=duals, filler=filler, strict=strict)


def _columns(columns: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, columns[:10]))
    more = f" and {len(columns) - 10} more" if len(columns) > 10 else ""
    return f"columns {shown}{more}"
