"""Bad samples in a batch of 64: told apart, masked, and the other 60 bitwise those of a clean batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foldcore as fc

pytest.importorskip("foldcore_newton", reason="folds with foldcore-newton")
pytest.importorskip("foldcore_direct", reason="folds with foldcore-direct")

B, N = 64, 6
INFEASIBLE, UNBOUNDED = (3, 17, 40), 29
SOLVERS = ["osqp", "daqp", "clarabel", "piqp", "highs", "gurobi"]


def clean() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "q": normal(B, N),
        "h": 0.5 + normal(B, 2).abs(),
        "upper": 1 + normal(B, N).abs(),
    }


def problem() -> fc.QuadraticProgram:
    """Curved in all variables but the last, so that a missing bound there is unbounded."""
    curvature = torch.diag(torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0, 0.0], dtype=torch.float64))
    rows = torch.zeros(2, N, dtype=torch.float64)
    rows[0, :3], rows[1, :3] = 1.0, -1.0  # |x_0 + x_1 + x_2| is limited; h < 0 is infeasible
    return fc.QuadraticProgram(
        P=curvature, q=fc.Param(N), G=rows, h=fc.Param(2),
        lower=torch.full((N,), -1.0, dtype=torch.float64), upper=fc.Param(N),
    )  # fmt: skip


def with_bad_samples(values: dict[str, Tensor]) -> dict[str, Tensor]:
    bad = {name: value.clone() for name, value in values.items()}
    bad["h"][list(INFEASIBLE)] = -1.0
    bad["upper"][UNBOUNDED, -1] = float("inf")
    bad["q"][UNBOUNDED, -1] = -1.0
    return bad


def solve(solver: str, values: dict[str, Tensor]) -> tuple[fc.Solution, dict[str, Tensor]]:
    layer = fc.build(
        {"problem": problem(), "solver": solver, "rule": "newton", "adjoint": "direct",
         "on_failure": "mask", "degeneracy": {"margin": 0.0}}
    )  # fmt: skip
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    solution = layer.solve(**leaves)
    weights = torch.linspace(-1, 1, N, dtype=torch.float64)
    (solution.primal.nan_to_num() * weights).sum().backward()
    gradients = {}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        gradients[name] = leaf.grad
    return solution, gradients


@pytest.mark.parametrize("solver", SOLVERS)
def test_sixty_good_samples_are_bitwise_those_of_a_clean_batch(solver: str) -> None:
    if solver not in fc.registry.solvers.usable_classes():
        pytest.skip(f"{solver} is not usable here: {fc.registry.solvers.availability()}")
    values = clean()
    values["q"][UNBOUNDED] = values["q"][0]
    expected, exact = solve(solver, values)
    assert not expected.failed
    with pytest.warns(fc.SolveWarning, match="4 of 64 samples failed"):
        found, gradients = solve(solver, with_bad_samples(values))
    good = [i for i in range(B) if i not in (*INFEASIBLE, UNBOUNDED)]
    assert len(good) == 60
    assert torch.equal(found.primal[good], expected.primal[good])
    assert found.primal[[*INFEASIBLE, UNBOUNDED]].isnan().all()
    for name, gradient in gradients.items():
        assert torch.equal(gradient[good], exact[name][good]), name
        assert not gradient[[*INFEASIBLE, UNBOUNDED]].any(), name
    assert {found.status[i] for i in INFEASIBLE} == {fc.Status.INFEASIBLE}
    assert found.status[UNBOUNDED] is fc.Status.UNBOUNDED
    assert all(found.messages[i] for i in (*INFEASIBLE, UNBOUNDED))
