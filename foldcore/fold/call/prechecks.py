"""Find the samples of a call that no solver should see: NaN, crossed bounds, indefinite P."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InputError, name_samples
from ...interfaces.solver import Solver
from ...numerics.definiteness import is_positive_semidefinite
from ...numerics.products import to_dense
from ...problem.parametric import ParametricProblem
from ...program.program import SmoothProgram
from ...program.structure import ProblemClass
from ...solution import Status
from .bound_call import Call
from .inputs import Inputs
from .verdicts import Verdicts


def find_bad_samples(
    problem: ParametricProblem, solver: Solver, call: Call, *, subject: str, strict: bool
) -> None:
    """Mark bad samples in ``call.verdicts``.

    Args:
        strict: Raise for wrong arguments instead of marking; an empty feasible set is marked
            in any case, for it is an answer and no mistake of the caller.

    Raises:
        InputError: If ``strict`` and an argument is NaN or indefinite, with its name and samples.
    """
    given, verdicts = call.given, call.verdicts
    with torch.no_grad():
        for name in problem.params:
            value = given.values[name]
            # A finite sum has finite terms and takes a third of the time of looking at each.
            if bool(torch.isfinite(value.sum())):
                continue
            wrong = value.isnan() if problem.may_be_infinite(name) else ~torch.isfinite(value)
            _mark(
                wrong, name in given.batched, Status.INVALID_INPUT, given, verdicts, strict,
                f"{subject}: parameter {name!r} contains NaN or inf",
                "Check what feeds it, or set on_failure: mask to go on without these samples.",
            )  # fmt: skip
    if verdicts.dead:
        return
    program = call.bound().lowering.original
    with torch.no_grad():
        if problem.structure.convex is None:
            _mark_indefinite(problem, solver, program, given, verdicts, subject, strict)
        if program.sets or (program.lower is not None and program.upper is not None):
            _mark_empty(program, verdicts)


def _mark(
    wrong: Tensor,
    batched: bool,
    status: Status,
    inputs: Inputs,
    verdicts: Verdicts,
    strict: bool,
    what: str,
    advice: str,
) -> None:
    if not bool(wrong.any()):
        return
    rows = wrong.flatten(1).any(-1) if batched and wrong.ndim > 1 else wrong
    if not batched:
        rows = torch.ones(inputs.batch, dtype=torch.bool, device=wrong.device)
    samples = torch.nonzero(rows).flatten().tolist()
    where = f" in samples {name_samples(samples)}" if batched else ""
    if strict:
        raise InputError(f"{what}{where}. {advice}")
    verdicts.fail(rows, status, what)


def _mark_indefinite(
    problem: ParametricProblem,
    solver: Solver,
    program: SmoothProgram,
    inputs: Inputs,
    verdicts: Verdicts,
    subject: str,
    strict: bool,
) -> None:
    classes = solver.capabilities.problem_classes
    if ProblemClass.NONCONVEX_QP in classes:
        return
    data = program.quadratic
    if data is None or not isinstance(data.P, Tensor):
        return  # curvature of sparse data is left to the solver's own check
    name = problem.structure.template.varying.get("P", "P")
    matrix = to_dense(data.P)
    what = f"parameter {name!r}" if name in problem.params else "the objective's Hessian"
    _mark(
        ~is_positive_semidefinite(matrix), matrix.ndim == 3, Status.NONCONVEX, inputs, verdicts, strict,
        f"{subject}: {what} is not positive semidefinite, as "
        f"{type(solver).__name__} needs it",
        "Predict a factor L and pass L @ L.mT, or use a solver of class nonconvex_qp.",
    )  # fmt: skip


def _mark_empty(program: SmoothProgram, verdicts: Verdicts) -> None:
    lower, upper = program.lower, program.upper
    everywhere = torch.ones(program.batch, dtype=torch.bool, device=program.device)
    if lower is not None and upper is not None:
        crossed = (lower > upper).any(-1) & everywhere
        if bool(crossed.any()):
            verdicts.fail(crossed, Status.INFEASIBLE, "lower exceeds upper")
    for atom in program.sets:
        empty = atom.empty(program.n) & everywhere
        if bool(empty.any()):
            verdicts.fail(empty, Status.INFEASIBLE, f"{type(atom).__name__} is an empty set")
