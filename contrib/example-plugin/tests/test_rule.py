"""What is this rule's own, beside what the conformance kit checks of every rule."""

from __future__ import annotations

import pytest
import torch

import foldcore as fc


def test_constraints_other_than_bounds_are_refused_at_build() -> None:
    problem = fc.QuadraticProgram(
        P=torch.eye(2), q=fc.Param(2), A=torch.ones(1, 2), b=torch.ones(1)
    )
    with pytest.raises(fc.ConfigError, match="constraints other than bounds"):
        fc.build({"problem": problem, "rule": "example"})
