"""Lowering of L1 terms: the same solutions, the way there and back, structures that agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foldcore as fc
from foldcore.program.lowering import Lowering

N, K, B = 4, 3, 2
D = torch.tensor(
    [[1.0, -1.0, 0.0, 0.0], [0.0, 1.0, -1.0, 0.0], [0.0, 0.0, 1.0, -1.0]], dtype=torch.float64
)
CENTRE = torch.tensor([[1.0, 0.2, -0.7, 0.1], [0.0, 2.0, 1.0, -1.0]], dtype=torch.float64)
ONES = torch.ones(N, dtype=torch.float64)


def problem(quadratic: bool = True, **extra: Any) -> fc.Problem:
    power = 2 if quadratic else 4
    return fc.Problem(
        N, lambda x, c: ((x - c) ** power).sum() / 2, {"c": fc.Param(N)},
        regularizers=[fc.L1(0.3, D), fc.L1(0.1)], **extra,
    )  # fmt: skip


def lowered(declared: fc.Problem) -> tuple[fc.SmoothProgram, Lowering]:
    program = declared.bind({**declared.constants, "c": CENTRE}, B)
    return program, Lowering(program)


@pytest.mark.parametrize("quadratic", [True, False])
def test_the_objective_at_complete_points_is_the_nonsmooth_one(quadratic: bool) -> None:
    _, lowering = lowered(problem(quadratic))
    x = torch.linspace(-1.0, 1.0, B * N, dtype=torch.float64).reshape(B, N)
    z = lowering.complete(x)
    assert z.shape == (B, N + K + N)
    power = 2 if quadratic else 4
    smooth = ((x - CENTRE) ** power).sum(-1) / 2
    expected = smooth + 0.3 * (x @ D.mT).abs().sum(-1) + 0.1 * x.abs().sum(-1)
    constant = (CENTRE**2).sum(-1) / 2 if quadratic else 0.0
    found = lowering.program.objective(z) + constant
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (lowering.program.inequality(z) <= 1e-15).all()
    smaller = z.clone()
    smaller[:, N:] -= 0.1
    assert (lowering.program.inequality(smaller) > 0.05).any(-1).all(), "t >= |Dx| is enforced"
    assert torch.equal(lowering.complete(z), z)


def test_without_regularizers_it_is_the_program_itself() -> None:
    plain = fc.QuadraticProgram(P=torch.eye(N, dtype=torch.float64), q=fc.Param(N))
    program = plain.bind({**plain.constants, "q": CENTRE}, B)
    lowering = Lowering(program)
    assert lowering.program is program
    solution = fc.Solution(CENTRE, (fc.Status.OPTIMAL,) * B)
    assert lowering.restrict(solution) is solution


CONSTRAINED: dict[str, dict[str, Any]] = {
    "linear rows": {"inequality": lambda x: torch.stack([x.sum() - 1, x[0] - 2])},
    "quadratic rows": {"inequality": lambda x: torch.stack([x @ x - 3, x.sum() - 1])},
    "function rows": {"inequality": lambda x: torch.stack([x.exp().sum() - 9, x.sum() - 1])},
    "equality": {"equality": lambda x: x.sum().reshape(1) - 1},
    "bounds": {"lower": -1.0, "upper": 2.0},
}


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_duals_come_back_to_their_rows(kind: str) -> None:
    """Rows are numbered in the lowered program; each must come back to the original's row."""
    program, lowering = lowered(problem(**CONSTRAINED[kind]))
    m, total = program.n_inequality, lowering.program.n_inequality
    assert total == m + 2 * (K + N)
    x = torch.zeros(B, N, dtype=torch.float64)
    wanted = program.inequality(x)
    values = lowering.program.inequality(lowering.complete(x))
    size = lowering.program.n
    marked = fc.Duals(
        torch.zeros(B, program.n_equality, dtype=torch.float64), values,
        torch.arange(size, dtype=torch.float64).expand(B, -1),
        torch.arange(size, dtype=torch.float64).expand(B, -1),
    )  # fmt: skip
    solution = fc.Solution(lowering.complete(x), (fc.Status.OPTIMAL,) * B, marked)
    back = lowering.restrict(solution)
    assert back.duals is not None
    assert back.primal.shape == (B, N)
    torch.testing.assert_close(back.duals.inequality, wanted)
    assert back.duals.lower.shape == back.duals.upper.shape == (B, N)


@pytest.mark.parametrize("kind", CONSTRAINED)
def test_structure_and_program_agree(kind: str) -> None:
    declared = problem(**CONSTRAINED[kind])
    structure = declared.lowered_structure
    _, lowering = lowered(declared)
    assert structure.n == lowering.program.n
    assert structure.n_inequality == lowering.program.n_inequality
    assert structure.n_equality == lowering.program.n_equality
    names = {name for name, _ in lowering.program.data.items()}
    template = structure.template
    assert names == {name for name in names if getattr(template, name) is not None}
    assert "q" in template.varying, "q depends on the parameter c"


def test_a_learnt_weight_and_operator_reach_the_lowered_data() -> None:
    declared = fc.Problem(
        N, lambda x, c: ((x - c) ** 2).sum() / 2, {"c": fc.Param(N)},
        regularizers=[fc.L1(fc.Param(name="weight"), fc.Param(K, N, name="D"))],
    )  # fmt: skip
    weight = torch.tensor([0.2, 0.5], dtype=torch.float64, requires_grad=True)
    operator = D.clone().requires_grad_()
    values = {**declared.constants, "c": CENTRE, "weight": weight, "D": operator}
    program = Lowering(declared.bind(values, B)).program
    assert program.data.q is not None
    torch.testing.assert_close(
        program.data.q[:, N:].detach(), weight.detach()[:, None].expand(B, K)
    )
    z = torch.ones(B, N + K, dtype=torch.float64)
    (program.objective(z).sum() + program.inequality(z).sum()).backward()
    torch.testing.assert_close(weight.grad, torch.full((2,), float(K)).double())
    assert operator.grad is not None


def test_a_solver_of_the_lowered_program_solves_the_original_one() -> None:
    pytest.importorskip("foldcore_osqp", reason="the lowered QP is solved by foldcore-osqp")
    pytest.importorskip("foldcore_proximal", reason="the rule for L1 terms is foldcore-proximal")
    declared = fc.Problem(
        N, lambda x, c: ((x - c) ** 2).sum() / 2, {"c": fc.Param(N)}, regularizers=[fc.L1(0.25)]
    )
    layer = fc.build({"problem": declared, "solver": "osqp", "rule": "proximal"})
    c = CENTRE.clone().requires_grad_()
    solution = layer.solve(c=c)
    expected = CENTRE.sign() * (CENTRE.abs() - 0.25).clamp(min=0)
    torch.testing.assert_close(solution.primal.detach(), expected, rtol=0, atol=1e-8)
    solution.primal.sum().backward()
    torch.testing.assert_close(c.grad, (CENTRE.abs() > 0.25).double(), rtol=1e-7, atol=1e-7)
    again = layer.solve(c=CENTRE, warm_start=solution)
    torch.testing.assert_close(again.primal, expected, rtol=0, atol=1e-8)
