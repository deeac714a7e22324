"""What of the SQP rule needs no other plugin."""

from __future__ import annotations

import torch
from foldcore_sqp import SQPConfig, SQPRule
from foldcore_sqp.operators import ScaledIdentity

import foldcore as fc


def test_the_inner_problem_is_a_convex_qp_with_every_present_field_a_parameter() -> None:
    problem = fc.Problem(
        3,
        lambda x, c: (x**4).sum() + c @ x,
        {"c": fc.Param(3)},
        inequality=lambda x: (x @ x - 1).reshape(1),
        lower=-1.0,
    )
    (name,) = SQPRule(SQPConfig()).inner_problems(problem)
    inner = SQPRule(SQPConfig()).inner_problems(problem)[name]
    assert name == "inner"
    assert set(inner.params) == {"P", "q", "G", "h", "lower"}
    assert inner.structure.problem_class is fc.ProblemClass.QP
    assert inner.structure.convex


def test_nonsmooth_problems_are_refused_with_the_reason() -> None:
    problem = fc.Problem(2, lambda x: x.square().sum(), regularizers=[fc.L1(0.1)])
    reason = SQPRule(SQPConfig()).unsupported_reason(problem.structure)
    assert reason is not None
    assert "nonsmooth" in reason


def test_a_scaled_identity_multiplies_by_its_factor() -> None:
    state = torch.ones(2, 3, dtype=torch.float64)
    operator = ScaledIdentity(state, 0.25)
    assert torch.equal(operator.vjp(state), 0.25 * state)
    assert torch.equal(operator.jvp(state), 0.25 * state)
    assert operator.symmetric
    assert torch.equal(operator.dense()[0], 0.25 * torch.eye(3, dtype=torch.float64))
