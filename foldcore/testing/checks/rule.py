"""Checks of update rules: at rest at solutions and nowhere else, per sample, without memory."""

from __future__ import annotations

import copy
import pickle

import torch

from ..check import CheckList, Kind, require, require_close, require_equal
from ..problems.known_problem import KnownProblem
from ..subjects.rule import AtRest, RuleSubject, direction
from ..subjects.settings import require_effects
from ..subjects.side_effects import Untouched

checks = CheckList(Kind.RULE)

_REST = 1e-9
"""Largest ‖U(z*) - z*‖∞ / step relative to 1 + ‖z*‖∞ at solutions known to rounding."""

_LONGEST = 2000
"""Steps of an iteration that says it converges."""

_AWAY = 0.01
"""How far away from z* the rule must move."""


@checks(clause=0)
def check_support(subject: RuleSubject) -> None:
    """It serves at least one of the kit's problems, or of the author's."""
    refusals = [
        f"{known.name}: {subject.refusal(known, subject.plugin())}" for known in subject.candidates
    ]
    require(
        bool(subject.supported),
        f"it serves none of the problems, so that nothing can be checked; give one with its "
        f"solution by problems=[KnownProblem(...)]. It says: {'; '.join(refusals)}.",
    )
    served = ", ".join(known.name for known in subject.supported)
    subject.notes.append(f"checked on: {served}")


def _require_rest(rest: AtRest, what: str, bound: float = _REST) -> None:
    with torch.no_grad():
        updated = rest.bound.step(rest.state)
        residual = rest.bound.residual(rest.state, updated)
    require(
        tuple(updated.shape) == tuple(rest.state.shape), f"{what}: U(z) has another shape than z."
    )
    size = 1 + rest.state.abs().amax(-1)
    largest = float((residual / size).max())
    require(largest <= bound, f"{what}: z* is not at rest, its residual is {largest:.1e}.")


@checks(clause=1)
def check_fixed_point(subject: RuleSubject) -> None:
    """It is at rest at a solution, lifted with or without multipliers, and gives x* and duals back."""
    for known in subject.supported:
        for duals in (True, False):
            rest = subject.at_rest(known, duals=duals)
            what = f"{known.name}, lifted {'with' if duals else 'without'} multipliers"
            _require_rest(rest, what)
            x = rest.bound.primal(rest.state)
            require_close(x, known.primal, _REST, f"primal(z*) of {what}")
            carried = rest.bound.duals(rest.state)
            if carried is not None and known.duals is not None:
                for name, value in vars(carried).items():
                    expected = vars(known.duals)[name]
                    require_close(value, expected, 100 * _REST, f"duals(z*).{name} of {what}")


@checks(clause=1)
def check_moves_elsewhere(subject: RuleSubject) -> None:
    """Where there is no solution it moves: its residual is in proportion to the distance."""
    for known in subject.supported:
        rest = subject.at_rest(known)
        if not rest.state.shape[-1]:
            continue
        away = rest.state + _AWAY * direction(rest.state, seed=1)
        with torch.no_grad():
            residual = rest.bound.residual(away, rest.bound.step(away))
        smallest = float(residual.min())
        require(
            smallest >= 1e-3 * _AWAY,
            f"{known.name}: {_AWAY} away from z* its residual is {smallest:.1e}, so that a point that "
            f"is no solution passes for one.",
        )


def _steps(subject: RuleSubject) -> list[KnownProblem]:
    return [
        known
        for known in subject.supported
        if (rest := subject.at_rest(known)).bound.with_step(_half(rest)) is not None
    ]


def _half(rest: AtRest) -> torch.Tensor:
    scale = torch.as_tensor(rest.bound.step_scale, dtype=rest.state.dtype)
    return scale.expand(len(rest.state)) / 2


@checks(
    clause=1,
    condition="with_step",
    applies=lambda s: "" if _steps(s) else "it has no step size (with_step is None)",
)
def check_step_size(subject: RuleSubject) -> None:
    """Another step size keeps the fixed point and scales the residual."""
    for known in _steps(subject):
        rest = subject.at_rest(known)
        half = _half(rest)
        other = rest.bound.with_step(half)
        if other is None:
            continue
        _require_rest(AtRest(other, rest.state), f"{known.name} with half the step")
        scale = torch.as_tensor(other.step_scale).expand_as(half)
        require_close(scale, half, 1e-12, f"{known.name}: step_scale after with_step")


def _iterated(subject: RuleSubject) -> list[KnownProblem]:
    rule = subject.plugin()
    return [known for known in subject.supported if rule.converges(known.problem.structure)]


@checks(
    clause=1,
    condition="converges",
    applies=lambda s: "" if _iterated(s) else "it declares of no problem that it converges",
)
def check_converges(subject: RuleSubject) -> None:
    """Iterated from its own start it finds the solutions that it says it finds."""
    for known in _iterated(subject):
        if not known.unique:
            continue
        bound = subject.bind(known)
        with torch.no_grad():
            state = bound.initial()
            halfway = None
            for k in range(_LONGEST):
                updated = bound.step(state)
                residual = bound.residual(state, updated)
                state = updated
                if bool((residual <= 1e-9 * (1 + state.abs().amax(-1))).all()):
                    break
                if k == _LONGEST // 2:
                    halfway = float((bound.primal(state) - known.primal).abs().max())
            x = bound.primal(state)
        error = float((x - known.primal).abs().max())
        approaching = halfway is not None and error <= halfway / 2
        require(
            error <= 1e-6 * (1 + float(known.primal.abs().max())) or approaching,
            f"{known.name}: after {k + 1} steps x is off by {error:.1e} and comes no nearer.",
        )


@checks(clause=4)
def check_size_one(subject: RuleSubject) -> None:
    """One variable and one sample work like any other number."""
    for known in subject.smallest:
        rest = subject.at_rest(known)
        _require_rest(rest, known.name)
        require_close(rest.bound.primal(rest.state), known.primal, _REST, f"primal of {known.name}")
        values = known.values
        found = subject.gradients(known, values, torch.ones_like(known.primal))
        for name, value in found.items():
            require(
                bool(value.isfinite().all()), f"{known.name}: the gradient of {name} is not finite."
            )


@checks(clause=3)
def check_batch(subject: RuleSubject) -> None:
    """A batch gives each sample what it gets alone: state, step and primal."""
    for known in subject.supported:
        rest = subject.at_rest(known)
        noise = _AWAY * direction(rest.state, seed=2)
        with torch.no_grad():
            moved = rest.bound.step(rest.state + noise)
            x = rest.bound.primal(rest.state)
        for i in range(known.batch):
            one = [i]
            alone = subject.at_rest(known.rows(one))
            what = f"sample {i} of {known.name} in a batch, against the sample alone"
            require_close(rest.state[one], alone.state, 1e-11, f"z* of {what}")
            with torch.no_grad():
                step = alone.bound.step(alone.state + noise[one])
            require_close(moved[one], step, 1e-11, f"U(z) of {what}")
            require_close(x[one], alone.bound.primal(alone.state), 1e-11, f"primal of {what}")


_SINGULAR = "QP with equalities alone"


def _serves_singular(subject: RuleSubject) -> str:
    served = [known.name for known in subject.supported]
    return "" if _SINGULAR in served else "it serves no problem with several equalities"


@checks(clause=3, condition="serves equalities", applies=_serves_singular)
def check_failed_sample(subject: RuleSubject) -> None:
    """A sample with a singular KKT system raises nothing, stays finite and harms no other."""
    known = next(known for known in subject.supported if known.name == _SINGULAR)
    rows, right = known.values["A"].clone(), known.values["b"].clone()
    rows[1, 1], right[1, 1] = rows[1, 0], right[1, 0]  # says the same twice
    clean = subject.at_rest(known)
    expected = clean.bound.step(clean.state).detach()
    bound = subject.bind(known, values={**known.values, "A": rows, "b": right})
    bound.lift(known.solution())
    bound = bound.at(clean.state)
    with torch.no_grad():
        updated = bound.step(clean.state)
    for i in (0, 2):
        what = f"U(z) of sample {i}, beside one whose equalities are dependent,"
        require_equal(updated[i], expected[i], what)
    require(bool(updated.isfinite().all()), "U(z) of the sample with dependent rows is not finite.")


@checks(clause=6)
def check_dtype(subject: RuleSubject) -> None:
    """float32 stays float32, float64 stays float64: state, step and primal."""
    for known in subject.supported:
        for dtype in (torch.float64, torch.float32):
            rest = subject.at_rest(known, dtype=dtype)
            values = {
                "lift": rest.state,
                "step": rest.bound.step(rest.state),
                "primal": rest.bound.primal(rest.state),
                "initial": rest.bound.initial(),
            }
            for name, value in values.items():
                require(
                    value.dtype == dtype, f"{known.name}: {name} gives {value.dtype} for {dtype}."
                )
            bound = max(_REST, 1e4 * torch.finfo(dtype).eps)
            _require_rest(rest, f"{known.name} in {dtype}", bound)


@checks(clause=9)
def check_inputs_untouched(subject: RuleSubject) -> None:
    """It changes neither data, states and solutions that it is given, nor global state."""
    for known in subject.supported:
        leaves = {name: value.clone().requires_grad_() for name, value in known.values.items()}
        solution = known.solution()
        given = {**leaves, "primal": solution.primal}
        if solution.duals is not None:
            given.update({f"duals.{k}": v for k, v in vars(solution.duals).items()})
        before = Untouched(given)
        bound = subject.bind(known, values=leaves)
        state = bound.lift(solution).detach()
        states = Untouched({"state": state})
        bound = bound.at(state)
        updated = bound.step(state)
        bound.residual(state, updated)
        if updated.requires_grad:
            total = updated.sum() + bound.primal(state).sum()
            torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        before.check()
        states.check()


@checks(clause=9)
def check_history(subject: RuleSubject) -> None:
    """A bound rule depends on no other binding, and copies and pickles of a rule do the same."""
    for known in subject.supported[:4]:
        rule = subject.plugin()
        first = subject.at_rest(known, rule=rule)
        away = first.state + _AWAY * direction(first.state, seed=2)
        with torch.no_grad():
            expected = first.bound.step(away)
        order = [*range(1, known.batch), 0]
        other = subject.at_rest(known.rows(order), rule=rule)
        with torch.no_grad():
            other.bound.step(other.state)
            again = first.bound.step(away)
        require_equal(again, expected, f"{known.name}: U(z) after another binding and step")
        for twin in (rule, pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule)):
            rest = subject.at_rest(known, rule=twin)
            with torch.no_grad():
                moved = rest.bound.step(away)
            require_equal(moved, expected, f"{known.name}: U(z) of a new binding or a copy")


@checks(clause=10)
def check_settings(subject: RuleSubject) -> None:
    """Every option has an effect that can be observed."""
    require_effects(subject)
