"""What is this solver's own, beside what the conformance kit checks of every solver."""

from __future__ import annotations

import pytest
import torch

import foldcore as fc


def test_a_singular_hessian_is_refused_not_answered() -> None:
    problem = fc.QuadraticProgram(P=torch.zeros(2, 2), q=fc.Param(2), lower=0.0, upper=1.0)
    layer = fc.build({"problem": problem, "solver": "example"})
    with pytest.raises(fc.SolveError, match="positive definite"):
        layer.solve(q=torch.ones(1, 2, dtype=torch.float64))
