"""Bad samples in a batch: told apart, masked, and the others bitwise those of a clean batch."""

from __future__ import annotations

from typing import Any

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


def affine_batches() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two equalities in each of five samples; of the second batch, sample 2 says the same twice."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"c": (5, N), "A": (5, 2, N), "b": (5, 2)}
    values = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    faulty = {name: value.clone() for name, value in values.items()}
    faulty["A"][2, 1], faulty["b"][2, 1] = 2 * faulty["A"][2, 0], 2 * faulty["b"][2, 0]
    return values, faulty


def affine_problem(form: str) -> fc.ParametricProblem:
    """Nearest point to c under Ax = b: as data, as a set, or as a term."""
    if form == "data":
        return fc.QuadraticProgram(
            P=torch.eye(N, dtype=torch.float64),
            q=fc.Param(N, name="c"),
            A=fc.Param(2, N),
            b=fc.Param(2),
        )
    affine = fc.AffineSet(fc.Param(2, N), fc.Param(2))
    part: dict[str, Any] = (
        {"constraints": [affine]} if form == "set" else {"regularizers": [fc.Indicator(affine)]}
    )
    return fc.Problem(N, lambda x, c: ((x - c) ** 2).sum() / 2, {"c": fc.Param(N)}, **part)


@pytest.mark.parametrize(
    ("form", "solver", "rule", "more"),
    [
        ("data", "daqp", "pgd", {}),
        ("data", "daqp", {"kind": "pgd", "step_size": "auto"}, {}),
        ("data", "daqp", "pgd", {"fixed_point": {"polish": 2}}),
        ("data", "daqp", "pgd", {"mode": "fixed_point_unfold"}),
        ("data", "iterate", "pgd", {}),
        ("data", "iterate", "pgd", {"mode": "unfold"}),
        ("set", "daqp", "pgd", {}),
        ("set", "daqp", "proximal", {}),
        ("set", "iterate", "proximal", {}),
        ("set", "iterate", "proximal", {"mode": "unfold"}),
        ("term", "iterate", "proximal", {}),
        ("term", "iterate", "fdpg", {}),
    ],
)
def test_dependent_equalities_of_one_sample_fail_that_sample_alone(
    form: str, solver: str, rule: Any, more: dict[str, Any]
) -> None:
    kind = rule if isinstance(rule, str) else rule["kind"]
    for name, module in (("solver", solver), ("rule", kind)):
        if module != "iterate":
            pytest.importorskip(f"foldcore_{module}", reason=f"its {name} is {module}")
    options = {
        "problem": affine_problem(form), "solver": solver, "rule": rule, "adjoint": "direct", **more
    }  # fmt: skip
    layer = fc.build({**options, "on_failure": "mask"})
    weights = torch.linspace(-1, 1, N, dtype=torch.float64)

    def run(values: dict[str, Tensor]) -> tuple[fc.Solution, dict[str, Tensor]]:
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        solution = layer.solve(**leaves)
        loss = (solution.primal.nan_to_num() * weights).sum()
        return solution, dict(
            zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)
        )

    values, faulty = affine_batches()
    expected, exact = run(values)
    assert not expected.failed
    with pytest.warns(fc.SolveWarning, match="1 of 5 samples failed. samples 2"):
        found, gradients = run(faulty)
    others = [0, 1, 3, 4]
    assert found.failed == (2,)
    assert torch.equal(found.primal[others], expected.primal[others])
    for name, gradient in gradients.items():
        assert torch.equal(gradient[others], exact[name][others]), name
        assert exact[name].any(), name
        assert not gradient[2].any(), name
    strict = fc.build({**options, "on_failure": "raise"})
    with pytest.raises(fc.SolveError) as caught:
        strict(**{name: value.requires_grad_() for name, value in faulty.items()})
    assert caught.value.samples == (2,)


@pytest.mark.parametrize(
    "rule", ["newton", "admm", {"kind": "sqp", "inner": {"solver": "daqp", "rule": "newton"}}]
)
def test_dependent_equalities_of_one_sample_leave_c_its_gradient_and_the_others_theirs(
    rule: Any,
) -> None:
    """x = c - A⁺(Ac - b): the same for a row stated twice, whose own data have no derivative."""
    for module in ("daqp", rule if isinstance(rule, str) else rule["kind"], "newton"):
        pytest.importorskip(f"foldcore_{module}", reason=f"folds with {module}")
    layer = fc.build(
        {"problem": affine_problem("data"), "solver": "daqp", "rule": rule, "adjoint": "direct"}
    )
    weights = torch.linspace(-1, 1, N, dtype=torch.float64)

    def run(values: dict[str, Tensor], names: list[str]) -> tuple[Tensor, list[Tensor]]:
        leaves = {k: v.clone().requires_grad_(k in names) for k, v in values.items()}
        x = layer(**leaves)
        return x.detach(), list(
            torch.autograd.grad((x * weights).sum(), [leaves[k] for k in names])
        )

    values, faulty = affine_batches()
    others = [0, 1, 3, 4]
    expected, exact = run(values, ["c"])
    x, found = run(faulty, ["c"])
    assert torch.equal(x[others], expected[others])
    assert torch.equal(found[0][others], exact[0][others])
    row = faulty["A"][2, 0]
    along = torch.outer(row, row) / (row @ row)
    # The parameter c is the objective's q: x = -c + …
    truth = -(weights - along @ weights)
    assert torch.allclose(found[0][2], truth, atol=1e-12)
    with pytest.raises(fc.DegenerateError, match="not unique for samples 2") as caught:
        run(faulty, ["A", "b"])
    assert caught.value.samples == (2,)


@pytest.mark.parametrize(("form", "rule"), [("data", "pgd"), ("set", "pgd"), ("set", "proximal")])
def test_dependent_equalities_that_all_samples_share_are_an_error(form: str, rule: str) -> None:
    pytest.importorskip("foldcore_daqp", reason="solves with foldcore-daqp")
    pytest.importorskip(f"foldcore_{rule}", reason=f"folds with foldcore-{rule}")
    _, faulty = affine_batches()
    layer = fc.build(
        {"problem": affine_problem(form), "solver": "daqp", "rule": rule, "adjoint": "direct",
         "on_failure": "mask"}
    )  # fmt: skip
    shared = {"A": faulty["A"][2], "b": faulty["b"][2]}
    with pytest.raises(
        fc.ProblemError, match=r"^A: rows 1 depend linearly on the rows before them"
    ):
        layer(c=faulty["c"].requires_grad_(), **shared)
