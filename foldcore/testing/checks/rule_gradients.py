"""Checks of an update rule's derivatives: products, Jacobians, and gradients of solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ...rules.linearise import RecordedStep, linearise
from ..check import CheckList, Kind, require, require_close
from ..problems.exact_gradients import comparable, exact_gradients, has_exact_gradients
from ..problems.known_problem import KnownProblem
from ..problems.known_problems import rowless_problem
from ..subjects.rule import AtRest, RuleSubject, direction

checks = CheckList(Kind.RULE)

_STEP = 1e-5
"""Of central differences in float64: truncation about 1e-10, rounding about 1e-11."""

_TOLERANCE = 1e-6
"""Relative; a factor of 1.001 is a thousand times more."""


@checks(clause=8)
def check_adjointness(subject: RuleSubject) -> None:
    """<cotangent, jvp(t)> = <vjp(cotangent), t>, and the flags of Φ hold."""
    for known in subject.supported:
        rest = subject.at_rest(known)
        operator = linearise(rest.bound, rest.state)
        cotangent, tangent = direction(rest.state, seed=4), direction(rest.state, seed=5)
        pulled = operator.vjp(cotangent)
        try:
            pushed = operator.jvp(tangent)
        except UnsupportedError:
            pushed = None
        if pushed is not None:
            left, right = (cotangent * pushed).sum(-1), (pulled * tangent).sum(-1)
            require_close(left, right, 1e-9, f"{known.name}: <g, jvp(t)> against <vjp(g), t>")
        dense = operator.dense()
        expected = torch.einsum("bij,bi->bj", dense.expand(known.batch, -1, -1), cotangent)
        require_close(pulled, expected, 1e-9, f"{known.name}: vjp(g) against dense()ᵀ g")
        require(
            not (operator.zero and bool(dense.abs().max() > 0)), f"{known.name}: Φ is not zero."
        )
        if operator.symmetric:
            require_close(dense.mT, dense, 1e-9, f"{known.name}: Φᵀ of a Φ declared symmetric")


@checks(clause=8)
def check_jacobian(subject: RuleSubject) -> None:
    """Φ, in closed form or by autograd, is the derivative of the step at z*, by central differences."""
    for known in subject.supported:
        rest = subject.at_rest(known)
        with torch.enable_grad():
            leaf = rest.state.clone().requires_grad_()
            recorded = RecordedStep(leaf, rest.bound.step(leaf))
        forms = {"autograd's Φ of the step": recorded.dense().expand(known.batch, -1, -1)}
        closed = rest.bound.jacobian(rest.state)
        if closed is not None:
            forms["jacobian(z*)"] = closed.dense().expand(known.batch, -1, -1)
        expected = _differences(lambda z, rest=rest: rest.bound.step(z), rest.state)  # type: ignore[misc]
        for name, given in forms.items():
            what = f"{known.name}: {name}, against central differences,"
            require_close(given, expected, _TOLERANCE, what)


def _differences(function: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
    """Return the Jacobian of each sample by central differences. Shape (B, s, s)."""
    columns = []
    with torch.no_grad():
        for j in range(state.shape[-1]):
            unit = torch.zeros_like(state)
            unit[:, j] = _STEP
            columns.append((function(state + unit) - function(state - unit)) / (2 * _STEP))
    return torch.stack(columns, dim=-1) if columns else state.new_zeros(*state.shape, 0)


@checks(clause=8)
def check_gradcheck(subject: RuleSubject) -> None:
    """The derivatives of step and primal with respect to every parameter are central differences."""
    for known in subject.supported:
        rest = subject.at_rest(known)
        leaves = {name: value.clone().requires_grad_() for name, value in known.values.items()}
        live = subject.at_rest(known, values=leaves)
        for role in ("step", "primal"):
            value = getattr(live.bound, role)(rest.state)
            cotangent = direction(value, seed=6)
            for name, leaf in leaves.items():
                along = _allowed_direction(known.values, name)
                given = _derivative(value, leaf, cotangent, along)
                moved = [
                    (_evaluate(subject, known, {**known.values, name: shifted}, role, rest) * cotangent)
                    .sum()
                    for shifted in (leaf.detach() + _STEP * along, leaf.detach() - _STEP * along)
                ]  # fmt: skip
                expected = (moved[0] - moved[1]) / (2 * _STEP)
                what = f"{known.name}: ∂{role}/∂{name}, against central differences,"
                require_close(given, expected, _TOLERANCE, what)


def _allowed_direction(values: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a random direction along which the problem stays one, and stays smooth.

    Matrices stay symmetric, absent rows absent, and a variable whose bounds coincide stays pinned.
    """
    value = values[name]
    along = direction(value, seed=7)
    if value.ndim >= 2 and value.shape[-1] == value.shape[-2]:
        along = (along + along.mT) / 2
    held = ~value.isfinite()
    if name in ("lower", "upper") and {"lower", "upper"} <= set(values):
        held = held | (values["lower"] == values["upper"])
    return torch.where(held, torch.zeros_like(along), along)


def _derivative(value: Tensor, leaf: Tensor, cotangent: Tensor, along: Tensor) -> Tensor:
    if not value.requires_grad:
        return value.new_zeros(())
    (gradient,) = torch.autograd.grad(
        value, leaf, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return (gradient * along).sum()


def _evaluate(
    subject: RuleSubject,
    known: KnownProblem,
    values: Mapping[str, Tensor],
    role: str,
    rest: AtRest,
) -> Tensor:
    """Evaluate step or primal of the rule bound to other data, at the state of the solution."""
    with torch.no_grad():
        bound = subject.bind(known, values=values)
        bound.lift(
            known.solution()
        )  # rules may take constants from the solution they are lifted to
        result: Tensor = getattr(bound.at(rest.state), role)(rest.state)
    return result


@checks(clause=8)
def check_gradients(subject: RuleSubject) -> None:
    """Folded gradients agree with the implicit function theorem on known active sets."""
    for known in subject.supported:
        if not has_exact_gradients(known):
            continue
        cotangent = direction(known.primal, seed=8)
        expected = comparable(known, exact_gradients(known, cotangent))
        given = comparable(known, subject.gradients(known, known.values, cotangent))
        for name, value in given.items():
            what = f"{known.name}: the gradient with respect to {name}"
            require_close(value, expected[name], _TOLERANCE, what)


@checks(clause=5)
def check_shared_gradient(subject: RuleSubject) -> None:
    """A parameter shared by the batch gets the sum of the samples' gradients."""
    for known in subject.supported:
        names = [name for name in known.values if known.batched(name)]
        repeated = known.rows([0, 0, 0])
        cotangent = direction(repeated.primal, seed=9)
        each = subject.gradients(repeated, repeated.values, cotangent)
        shared = {n: v[0] if n in names else v for n, v in repeated.values.items()}
        total = subject.gradients(repeated, shared, cotangent)
        for name in names:
            what = f"{known.name}: the gradient of {name} shared by the batch"
            require_close(total[name], each[name].sum(0), 1e-9, what)


@checks(clause=8)
def check_sets_without_rows(subject: RuleSubject) -> None:
    """A set without constraint rows, of a class it cannot know, is refused or differentiated rightly.

    A rule that reads rows alone would take the problem for an unconstrained one.
    """
    known = rowless_problem()
    refusal = subject.refusal(known, subject.plugin())
    if refusal is not None:
        subject.notes.append(f"refused: {refusal}")
        return
    cotangent = direction(known.primal, seed=6)
    found = subject.gradients(known, known.values, cotangent)
    signs = known.primal.sign()
    mean = (cotangent * signs).sum(-1, keepdim=True) / signs.abs().sum(-1, keepdim=True)
    what = f"{known.name}: the gradient with respect to"
    require_close(found["c"], signs.abs() * (signs * mean - cotangent), _TOLERANCE, f"{what} c")
    require_close(found["size"], mean.squeeze(-1), _TOLERANCE, f"{what} size")
