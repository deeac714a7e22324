"""Checks of solvers: accuracy, multipliers, types, batches, history, settings."""

from __future__ import annotations

import copy
import pickle

import torch

from ...interfaces.solver import Solver
from ...program.structure import ProblemClass
from ...solution import Solution
from ..check import CheckList, Kind, require, require_close, require_equal
from ..problems.known_problem import KnownProblem
from ..subjects.settings import require_effects
from ..subjects.side_effects import Untouched
from ..subjects.solver import SLACK, Run, SolverSubject, duals_of, require_optimal, residual

checks = CheckList(Kind.SOLVER)


def _refuses(problem_class: ProblemClass) -> str:
    return f"it accepts a problem of class {problem_class.value}, which it does not declare"


@checks(clause=0)
def check_capabilities(subject: SolverSubject) -> None:
    """It accepts problems of every class that it declares, and of no other."""
    declared = subject.capabilities.problem_classes
    require(bool(declared), "it declares no problem class.")
    for known in subject.candidates:
        structure = known.problem.lowered_structure
        if structure.problem_class not in declared:
            reason = subject.plugin().unsupported_reason(structure)
            require(reason is not None, f"{_refuses(structure.problem_class)} ({known.name}).")
    served = {known.problem.lowered_structure.problem_class for known in subject.supported}
    if subject.capabilities.needs_rule:
        require(bool(served), "it accepts none of the kit's problems that have an iteration.")
        return
    offered = {known.problem.lowered_structure.problem_class for known in subject.candidates}
    for missing in sorted(c.value for c in (declared & offered) - served):
        require(
            False,
            f"it declares the class {missing}, but accepts none of the kit's problems of it. Give "
            f"one that it accepts by problems=[...].",
        )


@checks(clause=1)
def check_kkt(subject: SolverSubject) -> None:
    """Its points satisfy the KKT conditions to the tolerance of its default configuration."""
    for known in subject.supported:
        bound = subject.bound(known)
        run = subject.base_run(known)
        require_optimal(run, known.name)
        largest = float(residual(run, own_duals=False).max())
        require(
            largest <= bound,
            f"on {known.name} the scaled KKT residual is {largest:.1e}; its tolerances promise "
            f"{bound:.1e}.",
        )
        if known.unique:
            n = known.problem.n
            what = f"the solution of {known.name}"
            require_close(run.solution.primal[:, :n], known.primal, 100 * bound, what)


@checks(
    clause=10,
    condition="config fields rtol or atol",
    applies=lambda s: "" if s.has_field("rtol") or s.has_field("atol") else "it has no tolerance",
)
def check_tolerance(subject: SolverSubject) -> None:
    """Its points are as accurate as the tolerance that is asked for, loose or tight."""
    for asked in (1e-3, 1e-6, 1e-9):
        options = {name: asked for name in ("rtol", "atol") if subject.has_field(name)}
        solver = subject.plugin(**options)
        for known in subject.supported[:6]:
            run = subject.run(known, solver=solver)
            if asked >= 1e-6:
                require_optimal(run, f"{known.name} at tolerance {asked:.0e}")
            good = torch.tensor([status.ok for status in run.solution.status])
            error = float(torch.where(good, residual(run, own_duals=False), 0.0).max())
            require(
                error <= SLACK * asked,
                f"on {known.name} a tolerance of {asked:.0e} was asked for, the scaled KKT residual "
                f"is {error:.1e} under a good status.",
            )
            subject.close(run)


def _gives_duals(subject: SolverSubject) -> str:
    return "" if subject.capabilities.duals else "it declares no duals"


@checks(clause=1, condition="capability duals", applies=_gives_duals)
def check_dual_signs(subject: SolverSubject) -> None:
    """Its multipliers have foldcore's signs, vanish on absent rows and close the KKT conditions."""
    seen = False
    for known in subject.supported:
        bound = subject.bound(known)
        run = subject.base_run(known)
        if not duals_of(run) or run.program.regularizers:
            continue
        seen = True
        for name in ("inequality", "lower", "upper"):
            value = duals_of(run)[name]
            lowest = float(value.min()) if value.numel() else 0.0
            require(lowest >= -bound, f"on {known.name} a multiplier of {name} is {lowest:.1e}.")
        _require_absent(run, known, bound)
        largest = float(residual(run, own_duals=True).max())
        require(
            largest <= bound,
            f"on {known.name} the scaled KKT residual is {largest:.1e} with its multipliers; its "
            f"tolerances promise {bound:.1e}.",
        )
    needed = not subject.capabilities.needs_rule
    require(
        seen or not needed, "it declares duals, but returned none on any of the kit's problems."
    )


def _require_absent(run: Run, known: KnownProblem, bound: float) -> None:
    for name, limit in (("lower", run.program.lower), ("upper", run.program.upper)):
        value = duals_of(run)[name]
        absent = (
            torch.ones_like(value, dtype=torch.bool)
            if limit is None
            else limit.isinf().expand_as(value)
        )
        if bool(absent.any()):
            largest = float(value[absent].abs().max())
            require(
                largest <= bound,
                f"on {known.name} the multiplier of an absent {name} bound is {largest:.1e}.",
            )


@checks(clause=6)
def check_dtype_and_device(subject: SolverSubject) -> None:
    """What goes in as float32 or float64, on any device it takes, comes out so."""
    known = subject.supported[0]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for dtype in (torch.float64, torch.float32):
        for device in devices:
            tensors = {**known.problem.constants, **known.values}
            moved = known.with_values(**{name: v.to(device) for name, v in tensors.items()})
            program = subject.program(moved, dtype)
            run = subject.run(known, program=program)
            require_optimal(run, f"{known.name} in {dtype} on {device}")
            for name, value in {"primal": run.solution.primal, **duals_of(run)}.items():
                require(value.dtype == dtype, f"{name} is {value.dtype} for {dtype}.")
                require(value.device.type == device, f"{name} is on {value.device}, not {device}.")
            n, tolerance = known.problem.n, max(1e4 * torch.finfo(dtype).eps, subject.promised())
            given = run.solution.primal[:, :n].double().cpu()
            require_close(given, known.primal, 100 * tolerance, f"the solution in {dtype}")


@checks(clause=1)
def check_inputs_untouched(subject: SolverSubject) -> None:
    """It changes neither the data it is given nor global state."""
    for known in subject.supported:
        program = subject.program(known)
        tensors = dict(program.params)
        for field, value in program.data.items():
            tensors[f"data {field}"] = value if isinstance(value, torch.Tensor) else value.values
        before = Untouched(tensors)
        subject.close(subject.run(known, program=program))
        before.check()


@checks(clause=3)
def check_batch(subject: SolverSubject) -> None:
    """A batch gives each sample what it gets alone."""
    for known in subject.supported:
        together = subject.base_run(known).solution
        exact = not subject.capabilities.native_batch
        bound = 1e-12 if exact else max(100 * subject.promised(), 1e-12)
        for i in range(known.batch):
            alone = subject.run(known.rows([i]))
            what = f"sample {i} of {known.name} in a batch, against the sample alone,"
            require_close(together.primal[i], alone.solution.primal[0], bound, what)
            require(
                together.status[i] is alone.solution.status[0], f"the status of {what} differs."
            )
            subject.close(alone)


@checks(clause=9)
def check_history(subject: SolverSubject) -> None:
    """A result depends on this call's data alone, not on what the session solved before."""
    for known in subject.representatives:
        order = list(range(known.batch))
        other = known.rows(order[1:] + order[:1])
        fresh = subject.base_run(known).solution
        fresh_other = subject.run(other)
        used = subject.run(known)
        kept = used.solution.primal.clone()
        second = subject.run(other, session=used.session)
        third = subject.run(known, session=used.session)
        require_equal(used.solution.primal, kept, f"an earlier answer to {known.name}, later on,")
        for run, expected in ((second, fresh_other.solution), (third, fresh)):
            what = f"the answer to {known.name} after other data in the same session"
            _require_same(subject, run.solution, expected, what)
        subject.close(used)
        subject.close(fresh_other)


def _require_same(subject: SolverSubject, given: Solution, expected: Solution, what: str) -> None:
    require(given.status == expected.status, f"the status of {what} is another.")
    if subject.capabilities.history_free == "bitwise":
        require_equal(given.primal, expected.primal, what)
    else:
        require_close(given.primal, expected.primal, SLACK * subject.promised(), what)


_LOOSENED = {"h": 0.01, "lower": -0.01, "upper": 0.01, "q": 0.01}
"""Changes of one field after which a feasible problem is feasible."""


@checks(clause=9)
def check_unchanged_data(subject: SolverSubject) -> None:
    """Data that are said not to have changed are kept by the session, changed ones are taken over."""
    for known in subject.representatives:
        varying = known.problem.lowered_structure.template.varying
        loosened = [f for f in _LOOSENED if f in varying and _batched(known, varying[f])]
        if not loosened:
            continue
        field, name = loosened[0], varying[loosened[0]]
        shared = known.rows([0] * known.batch)
        first = subject.run(shared)
        moved = shared.with_values(**{name: shared.values[name] + _LOOSENED[field]})
        fresh = subject.run(moved)
        used = subject.run(moved, session=first.session, changed=frozenset({field}))
        what = f"the answer to {known.name} with {name} alone changed"
        _require_same(subject, used.solution, fresh.solution, what)
        subject.close(first)
        subject.close(fresh)


def _batched(known: KnownProblem, name: str) -> bool:
    return name in known.values and known.batched(name)


@checks(
    clause=9,
    condition="capability warm_start",
    applies=lambda s: "" if s.capabilities.warm_start else "it declares no warm_start",
)
def check_warm_start(subject: SolverSubject) -> None:
    """A warm start leads to the same solution, in no more iterations, and is forgotten afterwards."""
    saved = False
    for known in subject.representatives:
        cold = subject.base_run(known)
        warm = subject.run(known, warm_start=cold.solution)
        require_optimal(warm, f"{known.name} with a warm start")
        if known.unique:
            bound = 100 * SLACK * subject.promised()
            what = f"the solution of {known.name} from a warm start"
            require_close(warm.solution.primal, cold.solution.primal, bound, what)
        before, after = sum(cold.solution.iterations), sum(warm.solution.iterations)
        saved = saved or after < before or not before
        again = subject.run(known, session=warm.session)
        what = f"a cold answer to {known.name} after a warm one"
        _require_same(subject, again.solution, cold.solution, what)
        subject.close(warm)
    require(saved, "a warm start from the solution saves no iteration on any problem.")


@checks(clause=4)
def check_size_one(subject: SolverSubject) -> None:
    """One variable and one sample work like any other number."""
    for known in subject.smallest:
        run = subject.run(known)
        require_optimal(run, known.name)
        n, bound = known.problem.n, 100 * SLACK * subject.promised()
        what = f"the solution of {known.name}"
        require_close(run.solution.primal[:, :n], known.primal, bound, what)


@checks(clause=9)
def check_copies(subject: SolverSubject) -> None:
    """Copies and pickles of a solver that has open sessions give the same answers."""
    known = subject.supported[0]
    solver = subject.plugin()
    first = subject.run(known, solver=solver)
    twins: list[Solver] = [pickle.loads(pickle.dumps(solver)), copy.deepcopy(solver)]
    for twin in twins:
        again = subject.run(known, solver=twin)
        _require_same(subject, again.solution, first.solution, f"{known.name}, by a copy,")
        subject.close(again)


@checks(clause=10)
def check_settings(subject: SolverSubject) -> None:
    """Every option has an effect that can be observed."""
    require_effects(subject)
