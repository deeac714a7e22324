"""What is this solver's own, beside what the conformance kit checks of every solver."""

from __future__ import annotations

import torch
from foldcore_example.solver import ExampleSolver
from foldcore_example.solver_config import ExampleSolverConfig

import foldcore as fc


def test_a_singular_hessian_is_refused_not_answered() -> None:
    problem = fc.QuadraticProgram(P=torch.zeros(2, 2), q=fc.Param(2), lower=0.0, upper=1.0)
    program = problem.bind({**problem.constants, "q": torch.ones(1, 2)}, batch=1)
    session = ExampleSolver(ExampleSolverConfig()).open(problem.structure)
    solution = session.solve(program, changed=frozenset({"q"}))
    assert solution.status == (fc.Status.NUMERICAL,)
    assert "positive definite" in solution.messages[0]
