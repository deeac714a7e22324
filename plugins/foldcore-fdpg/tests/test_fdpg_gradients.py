"""Gradients of f-FDPG against the implicit function theorem on the KKT conditions of the QP form (33)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from foldcore_fdpg import FDPGRule
from torch import Tensor

import foldcore as fc
from foldcore.testing.reference import QPReference

SEEDS = range(12)


def differencing(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)[:-1] - torch.eye(n, dtype=torch.float64)[1:]


@dataclass(frozen=True)
class Instance:
    """One denoising problem with its dense data; ``hessian`` is I for denoising."""

    problem: fc.Problem
    values: dict[str, Tensor]
    hessian: Tensor
    cotangent: Tensor

    @property
    def n(self) -> int:
        return self.hessian.shape[-1]


def instance(kind: str, seed: int) -> Instance:
    """Return a random instance; different seeds give different active sets."""
    generator = torch.Generator().manual_seed(100 * seed + len(kind))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = 12 + seed % 7 * 3
    k = n - 1 if kind == "differencing" else n - 3
    operator = differencing(n) if kind == "differencing" else normal(k, n) / n**0.5
    weight = 0.2 + 0.25 * (seed % 4)
    hessian = torch.eye(n, dtype=torch.float64)
    if kind == "general":
        factor = normal(n, n) / n**0.5
        hessian = factor @ factor.mT + 0.3 * hessian

    def objective(x: Tensor, d: Tensor) -> Tensor:
        if kind == "general":
            return x @ hessian @ x / 2 - d @ x
        return ((x - d) ** 2).sum() / 2

    term = fc.L1(fc.Param(), fc.Param(k, n, name="D"))
    problem = fc.Problem(n, objective, {"d": fc.Param(n)}, regularizers=[term], convex=True)
    values = {
        "d": normal(n).cumsum(0) * 0.6 if kind == "differencing" else normal(n),
        "D": operator,
        "weight": torch.tensor(weight, dtype=torch.float64),
    }
    return Instance(problem, values, hessian, normal(n))


def reference(case: Instance, x: Tensor) -> tuple[dict[str, Tensor], QPReference]:
    """Return gradients through the KKT system of min ½xᵀPx - dᵀx + λ1ᵀt, |Dx| <= t."""
    operator, weight = case.values["D"], case.values["weight"]
    k, n = operator.shape
    identity = torch.eye(k, dtype=torch.float64)
    data = {
        "P": torch.block_diag(case.hessian, torch.zeros(k, k, dtype=torch.float64)),
        "q": torch.cat([-case.values["d"], weight.expand(k)]),
        "G": torch.cat([torch.cat([s * operator, -identity], -1) for s in (1.0, -1.0)]),
        "h": torch.zeros(2 * k, dtype=torch.float64),
    }
    guess = torch.cat([x, (operator @ x).abs()]).numpy()
    found = QPReference.from_guess({f: v.numpy() for f, v in data.items()}, guess)
    padded = np.concatenate([case.cotangent.numpy(), np.zeros(k)])
    gradients = {f: torch.from_numpy(v) for f, v in found.gradients(padded).items()}
    rows = gradients["G"][:, :n]
    return {
        "d": -gradients["q"][:n],
        "D": rows[:k] - rows[k:],
        "weight": gradients["q"][n:].sum(),
    }, found


def folded(case: Instance, **config: object) -> tuple[dict[str, Tensor], fc.Solution]:
    settings = {"solver": "fdpg", "rule": "fdpg", **config}
    layer = fc.build({"problem": case.problem, **settings})
    values = {name: value.clone().requires_grad_() for name, value in case.values.items()}
    solution = layer.solve(**values)
    (solution.primal @ case.cotangent).backward()
    return {name: value.grad for name, value in values.items() if value.grad is not None}, solution


def largest_error(
    case: Instance, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> float:
    """Return the largest ‖error‖/max(‖reference‖, ‖cotangent‖)."""
    size = float(case.cotangent.norm())
    errors = [float((given[k] - v).norm()) / max(float(v.norm()), size) for k, v in wanted.items()]
    return max(errors)


@pytest.mark.parametrize("adjoint", ["gmres", "direct"])
@pytest.mark.parametrize("kind", ["random", "differencing", "general"])
def test_gradients_equal_those_of_the_lowered_qps_kkt_system(kind: str, adjoint: str) -> None:
    pytest.importorskip(f"foldcore_{adjoint}", reason=f"uses foldcore-{adjoint}")
    directions = []
    for seed in SEEDS:
        case = instance(kind, seed)
        given, solution = folded(case, adjoint={"kind": adjoint, "rtol": 1e-12})
        wanted, found = reference(case, solution.primal.detach())
        assert found.strictness > 1e-6, "the instance should be strictly complementary"
        assert torch.allclose(
            solution.primal.detach(), torch.from_numpy(found.x[: case.n]), rtol=0, atol=1e-9
        )
        assert solution.fixed_point_residual is not None
        assert float(solution.fixed_point_residual) < 1e-10
        assert largest_error(case, given, wanted) <= 1e-6
        directions.append(found.free_directions)
    assert sum(count >= 5 for count in directions) >= 5, directions
    assert len(set(directions)) >= 4, "the active sets should differ"


def test_a_primal_that_forgets_its_direct_term_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")
    case = instance("random", 3)
    right, solution = folded(case, adjoint="direct")
    wanted, _ = reference(case, solution.primal.detach())
    bound_class = type(FDPGRule(FDPGRule.config_class()).bind(_bound_program(case), {}))
    primal = bound_class.primal

    def forgetful(self: fc.BoundRule, state: Tensor) -> Tensor:
        through_w: Tensor = primal(self, state)
        detached: Tensor = primal(self, state.detach())
        return through_w - detached + detached.detach()

    monkeypatch.setattr(bound_class, "primal", forgetful)
    wrong, _ = folded(case, adjoint="direct")
    assert largest_error(case, right, wanted) <= 1e-6
    for name in ("d", "D"):
        assert (wrong[name] - wanted[name]).norm() > 1e-2 * wanted[name].norm()


def _bound_program(case: Instance) -> fc.SmoothProgram:
    return case.problem.bind({**case.problem.constants, **case.values}, 1)


def test_lfpi_agrees_where_the_update_contracts() -> None:
    pytest.importorskip("foldcore_lfpi", reason="uses foldcore-lfpi")
    radii = []
    for seed in (0, 4, 8):
        case = instance("random", seed)
        bound = FDPGRule(FDPGRule.config_class()).bind(_bound_program(case), {})
        given, solution = folded(case, adjoint={"kind": "lfpi", "rtol": 1e-10, "max_iter": 20000})
        wanted, _ = reference(case, solution.primal.detach())
        assert largest_error(case, given, wanted) <= 1e-6
        state = bound.lift(fc.Solution(solution.primal.detach()[None], (fc.Status.OPTIMAL,)))
        jacobian = torch.func.jacrev(lambda w, b=bound: b.step(w)[0])(state)[:, 0]
        radii.append(float(torch.linalg.eigvals(jacobian).abs().max()))
    assert max(radii) < 1, radii


def test_gradients_of_batched_operators_and_weights_are_those_of_each_sample() -> None:
    pytest.importorskip("foldcore_direct", reason="uses foldcore-direct")
    cases = [instance("random", seed) for seed in (0, 7)]
    assert cases[0].n == cases[1].n
    layer = fc.build(
        {"problem": cases[0].problem, "solver": "fdpg", "rule": "fdpg", "adjoint": "direct"}
    )
    values = {
        name: torch.stack([case.values[name] for case in cases]).requires_grad_()
        for name in cases[0].values
    }
    cotangent = torch.stack([case.cotangent for case in cases])
    (layer(**values) * cotangent).sum().backward()
    for i, case in enumerate(cases):
        alone, solution = folded(case, adjoint="direct")
        wanted, _ = reference(case, solution.primal.detach())
        for name, value in values.items():
            assert value.grad is not None
            size = max(float(alone[name].norm()), float(case.cotangent.norm()))
            assert (value.grad[i] - alone[name]).norm() <= 1e-8 * size, name
        assert largest_error(case, {k: v.grad[i] for k, v in values.items()}, wanted) <= 1e-6


def test_a_learned_operator_trains_one_step() -> None:
    pytest.importorskip("foldcore_gmres", reason="uses foldcore-gmres")
    n, batch = 20, 8
    start = differencing(n)
    operator = fc.Param(n - 1, n, init=start, name="D")
    problem = fc.Problem(
        n,
        lambda x, d: ((x - d) ** 2).sum() / 2,
        {"d": fc.Param(n)},
        regularizers=[fc.L1(0.5, operator)],
    )
    layer = fc.build({"problem": problem, "solver": "fdpg", "rule": "fdpg", "adjoint": "gmres"})
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(batch, 4, generator=generator, dtype=torch.float64)
    signal = signal.repeat_interleave(n // 4, dim=-1)
    noisy = signal + 0.3 * torch.randn(batch, n, generator=generator, dtype=torch.float64)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = (layer(d=noisy) - signal).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    assert not torch.equal(layer.D.detach(), start)
