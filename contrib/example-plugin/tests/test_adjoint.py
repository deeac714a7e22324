"""What is this adjoint solver's own, beside what the conformance kit checks of every one."""

from __future__ import annotations

import torch
from foldcore_example.adjoint import ExampleAdjoint
from foldcore_example.adjoint_config import ExampleAdjointConfig

from foldcore.testing import MatrixOperator


def test_it_takes_as_many_products_as_there_are_eigenvalues() -> None:
    matrix = torch.diag(torch.tensor([0.5, 0.5, 0.5, -3.0, -3.0, 0.9], dtype=torch.float64))
    answer = ExampleAdjoint(ExampleAdjointConfig()).solve(
        MatrixOperator(matrix[None]), torch.ones(1, 6, dtype=torch.float64)
    )
    assert bool(answer.converged.all())
    assert int(answer.iterations) <= 3 + 2  # the start and the measured residual cost one each
