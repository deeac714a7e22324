"""QpthSession: a batch through qpth, with what fails solved anew and what stays failed kept apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from foldcore import IterationMap, Session, SmoothProgram, Solution, Status, UnsupportedError

from .attempt import FEASIBILITY, Attempt, attempt
from .config import QpthConfig
from .equalities import Group, Known, group
from .standard_form import StandardForm

SPREADS = (0.0, 0.5, 2.0)
"""Row scalings tried in turn; see :func:`attempt`."""

LARGEST_BATCHED = 100
"""Above this size batched LU can hang on the CPU with two or more threads (torch 2.13, oneMKL)."""


@dataclass
class _Result:
    """What is known so far: solved samples on the graph, and the fate of each."""

    status: list[Status]
    messages: list[str]
    solved: list[tuple[tuple[int, ...], Tensor]] = field(default_factory=list)

    def fail(self, sample: int, status: Status, message: str) -> None:
        self.status[sample], self.messages[sample] = status, message


class QpthSession(Session):
    """Keeps nothing but which rows of a constant A are independent."""

    def __init__(self, config: QpthConfig) -> None:
        self._config = config
        self._known: Known = {}

    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        """See :meth:`Session.solve`. The primal is on the graph of the program's tensors.

        Rows of failed samples are 0 and constant: they send nothing backwards.
        """
        data = program.quadratic
        if data is None or data.n_quadratic:
            raise UnsupportedError(
                "qpth: the program is not a QP. Use a solver that offers its class."
            )
        form = StandardForm.of(data, program.batch)
        result = _Result([Status.OPTIMAL] * program.batch, [""] * program.batch)
        known: Known = {} if "A" in changed else self._known
        for members in group(form, _admitted(form, result), known):
            self._solve_group(form, members, result)
        return Solution(
            primal=_assemble(form, result).to(program.dtype),
            status=tuple(result.status),
            messages=tuple(result.messages),
        )

    def _solve_group(self, form: StandardForm, members: Group, result: _Result) -> None:
        """Solve a group together where that is safe, and alone what is not accepted so."""
        left = members
        if len(members.samples) > 1 and not _may_hang(form, members):
            for spread in SPREADS:
                left = self._solve_together(form, left, spread, result)
        for sample in left.samples:
            self._solve_alone(form, left.only(sample), result)

    def _solve_together(
        self, form: StandardForm, members: Group, spread: float, result: _Result
    ) -> Group:
        """Solve what can be accepted and return what is left."""
        if not members.samples:
            return members
        try:
            outcome = attempt(form, members, spread, self._config)
        except RuntimeError:
            return members  # alone, the sample with the failed factorisation will say so
        accepted = outcome.accepted.tolist()
        if all(accepted):
            result.solved.append((members.samples, outcome.primal))
            return members.only()
        # A failing sample can end qpth's iteration early for all: once more without it.
        clean = members.only(*(i for i, ok in zip(members.samples, accepted, strict=True) if ok))
        left = set(self._solve_together(form, clean, spread, result).samples)
        left |= set(members.samples) - set(clean.samples)
        return members.only(*sorted(left))

    def _solve_alone(self, form: StandardForm, member: Group, result: _Result) -> None:
        (sample,) = member.samples
        for spread in SPREADS:
            try:
                outcome = attempt(form, member, spread, self._config)
            except RuntimeError as error:
                words = " ".join(str(error).split())
                result.fail(sample, Status.NUMERICAL, f"a factorisation failed: {words}")
                return
            if bool(outcome.accepted):
                result.solved.append((member.samples, outcome.primal))
                return
        result.fail(sample, *_diagnosis(form, sample, outcome))


def _may_hang(form: StandardForm, members: Group) -> bool:
    """Return whether batched LU of these sizes can hang."""
    equalities = len(members.kept) + len(members.fixed)
    largest = max(form.Q.shape[-1], form.G.shape[1], equalities)
    return form.Q.device.type == "cpu" and torch.get_num_threads() > 1 and largest > LARGEST_BATCHED


def _admitted(form: StandardForm, result: _Result) -> list[int]:
    """Return the samples that qpth may see; mark the others."""
    finite = torch.stack(
        [t.detach().flatten(1).isfinite().all(-1) for t in (form.Q, form.p, form.G, form.A)]
    ).all(0)
    wrong = form.unknown | form.b.isnan().any(-1) | ~finite
    empty = form.empty | (form.h == -torch.inf).any(-1) | form.b.isinf().any(-1)
    for i in torch.nonzero(empty).flatten().tolist():
        result.fail(i, Status.INFEASIBLE, "a lower limit exceeds its upper limit")
    for i in torch.nonzero(wrong).flatten().tolist():
        result.fail(i, Status.NUMERICAL, "the data contain NaN or inf")
    return [i for i, status in enumerate(result.status) if status.ok]


def _diagnosis(form: StandardForm, sample: int, outcome: Attempt) -> tuple[Status, str]:
    """Say what became of a sample that no attempt solved."""
    violation, mismatch = float(outcome.violation), float(outcome.mismatch)
    if not violation <= FEASIBILITY and _is_empty(form, sample):
        return Status.INFEASIBLE, f"no point satisfies the constraints; violation {violation:.1e}"
    if not bool(outcome.primal.isfinite().all()):
        return Status.NUMERICAL, "qpth returned NaN or inf"
    if violation > FEASIBILITY:
        return Status.INACCURATE, f"constraints are violated by {violation:.1e}; raise max_iter"
    return (
        Status.INACCURATE,
        f"solution or derivative off by {mismatch:.1e} in its check; raise max_iter, "
        "or check_rtol if you can accept that",
    )


def _is_empty(form: StandardForm, sample: int) -> bool:
    """Return whether HiGHS proves that a sample's constraints exclude each other."""
    unit = np.eye(form.p.shape[-1])[form.fixed[sample].cpu().numpy()]
    value = form.value[sample][form.fixed[sample]]
    G, h, A, b, v = (
        t.detach().cpu().numpy()
        for t in (form.G[sample], form.h[sample], form.A[sample], form.b[sample], value)
    )
    answer = scipy.optimize.linprog(
        np.zeros(form.p.shape[-1]), A_ub=G, b_ub=h, A_eq=np.concatenate([A, unit]),
        b_eq=np.concatenate([b, v]), bounds=(None, None),
    )  # fmt: skip
    return int(answer.status) == 2


def _assemble(form: StandardForm, result: _Result) -> Tensor:
    """Put the samples in their order; failed ones are 0, without gradient."""
    order = [i for samples, _ in result.solved for i in samples]
    failed = [i for i, status in enumerate(result.status) if not status.ok]
    zeros = torch.zeros(len(failed), form.p.shape[-1], dtype=torch.float64, device=form.p.device)
    rows = torch.cat([*(primal for _, primal in result.solved), zeros])
    place = torch.argsort(torch.tensor(order + failed, device=rows.device))
    primal = rows[place]
    return primal if torch.is_grad_enabled() and form.needs_grad else primal.detach()
