"""Checks of solvers that are differentiable by themselves."""

from __future__ import annotations

import torch

from ..check import CheckList, Kind, require, require_close
from ..problems.exact_gradients import comparable, exact_gradients
from ..subjects.solver import SolverSubject

checks = CheckList(Kind.SOLVER)


def _differentiable(subject: SolverSubject) -> str:
    return "" if subject.capabilities.differentiable else "it declares no differentiable"


@checks(clause=8, condition="capability differentiable", applies=_differentiable)
def check_gradients(subject: SolverSubject) -> None:
    """Its gradients agree with the implicit function theorem, for every parameter."""
    for known in subject.supported:
        if known.problem.structure.has_regularizers or not known.unique:
            continue
        cotangent = torch.ones_like(known.primal).cumsum(-1)
        expected = exact_gradients(known, cotangent)
        leaves = {name: v.clone().requires_grad_() for name, v in known.values.items()}
        run = subject.run(known, program=known.lowered(values=leaves))
        require(run.solution.primal.requires_grad, f"on {known.name} its answer has no graph.")
        given = torch.autograd.grad(
            (run.solution.primal * cotangent).sum(),
            list(leaves.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        expected = comparable(known, expected)
        for name, value in comparable(known, dict(zip(leaves, given, strict=True))).items():
            what = f"the gradient of {known.name} with respect to {name}"
            require_close(value, expected[name], 1e-5, what)


@checks(clause=5, condition="capability differentiable", applies=_differentiable)
def check_shared_gradient(subject: SolverSubject) -> None:
    """A parameter shared by the batch gets the sum of the samples' gradients."""
    known = next(k for k in subject.supported if k.unique and all(map(k.batched, k.values)))
    repeated = known.rows([0, 0, 0])
    cotangent = torch.arange(1.0, 1 + repeated.primal.numel()).double()
    cotangent = cotangent.reshape(repeated.primal.shape)
    grads = []
    for values in (repeated.values, {name: v[0] for name, v in repeated.values.items()}):
        leaves = {name: v.clone().requires_grad_() for name, v in values.items()}
        run = subject.run(repeated, program=repeated.lowered(values=leaves))
        total = (run.solution.primal * cotangent).sum()
        grads.append(torch.autograd.grad(total, list(leaves.values()), allow_unused=True))
    for name, each, shared in zip(repeated.values, *grads, strict=True):
        if each is not None and shared is not None:
            require_close(shared, each.sum(0), 1e-5, f"the gradient of {name} shared by the batch")
