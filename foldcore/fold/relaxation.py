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

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError, ProblemError, RecognitionError
from ..problem.fixed_integers import WHOLE_NUMBERS, FixedIntegers
from ..problem.parametric import ParametricProblem
from ..solution import Solution, Status
from .call.bound_call import Call
from .call.inputs import Inputs
from .call.prechecks import find_bad_samples
from .call.verdicts import Verdicts
from .parts import Parts
from .sessions import session_for

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


class Relaxed:
    """Says in every solution which relaxation is folded, and of which columns.

    Args:
        relaxation: As configured.
        columns: Those that the declared problem has integer.
    """

    def __init__(self, relaxation: Relaxation, columns: tuple[int, ...]) -> None:
        self._columns = columns
        self.label = f"relaxation: {relaxation} ({_columns(columns)} integer)"

    def prepare(self, parts: Parts, given: Inputs) -> Inputs:
        """Return the arguments as they are: both problems have the same."""
        return given

    def enter(self, call: Call) -> None:
        """Nothing was found."""

    def leave(self, solution: Solution) -> Solution:
        """Return the solution with the relaxation named for each sample that has no other message."""
        said = solution.messages or ("",) * len(solution.status)
        return replace(solution, messages=tuple(text or self.label for text in said))


@dataclass(frozen=True)
class _FoundInputs(Inputs):
    """Inputs with the whole numbers among the values, and what became of each sample's search."""

    search: Verdicts


class FixedIntegersFound(Relaxed):
    """Finds the whole numbers first, without gradient; the problem in which they are fixed is folded.

    Certificates, multipliers and derivatives are those of the fixed problem. That the whole numbers
    are the best ones is the discrete solver's word, within its gap.
    """

    def prepare(self, parts: Parts, given: Inputs) -> Inputs:
        """Return the arguments with the whole numbers; a sample without them has NaN in their place.

        Raises:
            InputError: As of :meth:`Fold.forward`.
        """
        search = Verdicts(given.batch)
        with torch.no_grad():
            whole = self._search(parts, given, search)
        batched = given.batched
        if batched:
            batched = batched | {WHOLE_NUMBERS}
        else:
            whole = whole[0]
        values = {**given.values, WHOLE_NUMBERS: whole}
        return _FoundInputs(values, given.batch, batched, given.dtype, given.device, search)

    def enter(self, call: Call) -> None:
        """Take over the samples whose search failed."""
        if isinstance(call.given, _FoundInputs):
            search = call.given.search
            call.verdicts.merge(search.status, search.messages, "search for whole numbers")

    def _search(self, parts: Parts, inputs: Inputs, search: Verdicts) -> Tensor:
        """Return the whole numbers, (B, k), NaN for the samples that are marked as failed."""
        problem = parts.problem
        if not isinstance(problem, FixedIntegers):
            raise ProblemError(f"{parts.subject}: folds no problem with fixed integers.")
        original = problem.original
        strict = parts.config.on_failure == "raise"
        subject = parts.subject
        call = Call(original, inputs, search)
        find_bad_samples(original, parts.solver, call, subject=subject, strict=strict)
        whole = torch.full(
            (inputs.batch, len(self._columns)),
            float("nan"),
            dtype=inputs.dtype,
            device=inputs.device,
        )
        if search.dead:
            return whole
        answer = _ask(parts, original, call)
        found = answer.primal[:, list(self._columns)].to(inputs.device, inputs.dtype)
        nearest = found.round() + 0.0  # no negative zeros
        fractional = ~((found - nearest).abs() <= _INTEGRALITY * (1 + nearest.abs())).all(-1)
        search.fail(fractional, Status.INACCURATE, "the solver's integer columns are not whole")
        data = original.bind(inputs.detached(), inputs.batch).data
        stuck = problem.undroppable(data)
        if stuck is not None:
            search.fail(
                stuck.expand(inputs.batch),
                Status.INVALID_INPUT,
                "A is a dense parameter and has a row of integer columns alone, which cannot leave "
                "the fixed problem; declare A as a constant or Sparse",
            )
        allowed = max(parts.config.kkt.atol, 1e4 * torch.finfo(inputs.dtype).eps)
        broken = ~(problem.excess(data, nearest) <= allowed)
        search.fail(broken, Status.INACCURATE, "the solver's whole numbers violate rows of theirs")
        return torch.where(search.mask(inputs.device)[:, None], whole, nearest)


def _ask(parts: Parts, original: ParametricProblem, call: Call) -> Solution:
    inputs, search, lowering = call.given, call.verdicts, call.bound().lowering
    structure = original.lowered_structure
    variant = (WHOLE_NUMBERS, inputs.dtype, inputs.device)
    session = session_for(parts.owner, parts.solver, structure, variant)
    as_declared = parts.solver.capabilities.regularizers
    answer = session.solve(
        lowering.original if as_declared else lowering.program,
        changed=frozenset(structure.template.varying),
    )
    search.merge(answer.status, answer.messages, type(parts.solver).__name__)
    point = answer.primal[:, : original.n].to(inputs.device, inputs.dtype)
    good = ~search.mask(inputs.device)[:, None] & torch.isfinite(point)
    mismatch = lowering.original.asserted_mismatch(torch.where(good, point, 0.5))
    if mismatch is not None:
        raise RecognitionError(
            f"{parts.subject}: the asserted structure does not hold: the {mismatch} is not "
            f"the quadratic that was extracted. Leave out structure=."
        )
    return answer


def stage_of(relaxation: Relaxation, columns: tuple[int, ...]) -> Relaxed:
    """Return what a layer does beside folding the relaxed problem."""
    kind = FixedIntegersFound if relaxation == "fixed_integers" else Relaxed
    return kind(relaxation, columns)


def _columns(columns: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, columns[:10]))
    more = f" and {len(columns) - 10} more" if len(columns) > 10 else ""
    return f"columns {shown}{more}"
