"""The qpth plugin: solutions and gradients against independent references, gaps, failures, the hang."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

import numpy as np
import pytest
import scipy.optimize
import torch
from foldcore_qpth import QpthConfig, QpthSolver, attempt
from foldcore_qpth import session as session_module
from qpth.qp import QPFunction
from torch import Tensor

from foldcore import (
    Param,
    ProblemClass,
    QuadraticProgram,
    Session,
    Solution,
    Sparse,
    Status,
    kkt_report,
)
from foldcore.testing.problems import declare, random_qp

INF = float("inf")

SIZES = {"n": 8, "n_equality": 2, "n_inequality": 5}


class Opened:
    """A problem with its session: ``solve(**values)`` binds and solves."""

    def __init__(self, problem: QuadraticProgram, **options: object) -> None:
        self.problem = problem
        self.session: Session = QpthSolver(QpthConfig(**options)).open(problem.structure)

    def bind(self, batch: int, values: Mapping[str, Tensor]):
        return self.problem.bind({**self.problem.constants, **values}, batch)

    def solve(self, batch: int, values: Mapping[str, Tensor]) -> Solution:
        changed = frozenset(self.problem.varying)
        return self.session.solve(self.bind(batch, values), changed=changed)


def opened(data: Mapping[str, Tensor], **options: object) -> Opened:
    return Opened(declare(data, data.keys()), **options)


def one(data: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    return {name: value[sample : sample + 1] for name, value in data.items()}


def residual(problem: Opened, batch: int, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return kkt_report(problem.bind(batch, values), x.detach(), None)[0].residual


def reference(data: Mapping[str, Tensor]) -> Tensor:
    """Solve one QP by SLSQP for the active set, then exactly by its KKT system."""
    arrays = {k: v.detach().numpy() for k, v in data.items()}
    n = arrays["q"].shape[0]
    P, q, eye = arrays["P"], arrays["q"], np.eye(n)
    C, d, E, e = [], [], [], []
    if "G" in arrays:
        C, d = [*arrays["G"]], [*arrays["h"]]
    if "A" in arrays:
        E, e = [*arrays["A"]], [*arrays["b"]]
    for sign, name in ((-1, "lower"), (1, "upper")):
        if name in arrays:
            C, d = [*C, *(sign * eye)], [*d, *(sign * arrays[name])]
    finite = np.isfinite(d)
    C, d = np.reshape(C, (-1, n))[finite], np.asarray(d)[finite]
    E, e = np.reshape(E, (-1, n)), np.asarray(e)
    if len(e) and np.linalg.matrix_rank(E) < len(e):
        E, e = E[:1], e[:1]
    rules = [{"type": "ineq", "fun": lambda x: d - C @ x, "jac": lambda x: -C}]
    if len(e):
        rules.append({"type": "eq", "fun": lambda x: E @ x - e, "jac": lambda x: E})
    found = scipy.optimize.minimize(
        lambda x: (x @ P @ x / 2 + q @ x, P @ x + q), np.full(n, 0.5), jac=True,
        method="SLSQP", constraints=rules, options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    active = d - C @ found.x < 1e-6
    K = np.concatenate([C[active], E])
    zero = np.zeros((len(K), len(K)))
    right = np.concatenate([-q, d[active], e])
    # Least squares: duplicated rows leave the multipliers open, not x.
    answer = np.linalg.lstsq(np.block([[P, K.T], [K, zero]]), right, rcond=1e-12)[0]
    assert np.abs(answer[:n] - found.x).max() < 1e-5
    return torch.from_numpy(answer[:n])


def difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """Return the gradient of a scalar function by central differences."""
    gradient = torch.zeros_like(at)
    for k in range(at.numel()):
        move = torch.zeros(at.numel(), dtype=at.dtype)
        move[k] = step
        move = move.reshape(at.shape)
        gradient.view(-1)[k] = (function(at + move) - function(at - move)) / (2 * step)
    return gradient


@pytest.mark.parametrize("batch", [1, 3])
def test_solutions_agree_with_an_active_set_reference(batch):
    data = random_qp(1, **SIZES, batch=batch)
    solution = opened(data).solve(batch, data)
    assert solution.status == (Status.OPTIMAL,) * batch
    assert solution.duals is None
    for i in range(batch):
        expected = reference({k: v[i] for k, v in data.items()})
        torch.testing.assert_close(solution.primal[i], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("decades", [0.0, 2.0])
def test_larger_random_qps_satisfy_kkt(decades):
    data = random_qp(2, 30, 10, 15, batch=10, decades=decades)
    problem = opened(data)
    solution = problem.solve(10, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(residual(problem, 10, data, solution.primal).max()) < 1e-6


def weighted(x: Tensor) -> Tensor:
    return (x * torch.arange(1.0, x.shape[-1] + 1, dtype=x.dtype)).sum()


@pytest.mark.parametrize("field", ["P", "q", "A", "b", "G", "h", "lower", "upper"])
def test_gradients_agree_with_central_differences_of_the_reference(field):
    data = random_qp(1, 5, 1, 2)  # one row, one lower and one upper bound are active
    problem = opened(data)
    inputs = {k: v.clone().requires_grad_(k == field) for k, v in data.items()}
    solution = problem.solve(1, inputs)
    assert solution.status == (Status.OPTIMAL,)
    (gradient,) = torch.autograd.grad(weighted(solution.primal), inputs[field])

    def moved(value: Tensor) -> Tensor:
        value = (value + value.mT) / 2 if field == "P" else value
        return weighted(reference({**data, field: value}))

    expected = difference(moved, data[field])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)
    assert float(expected.abs().max()) > 1e-3


def test_gradient_of_shared_data_is_the_sum_over_the_batch():
    single, many = random_qp(6, **SIZES), random_qp(6, **SIZES, batch=4)
    values = {k: v.clone().requires_grad_() for k, v in single.items() if k != "q"}
    together = weighted(opened(single).solve(4, {**values, "q": many["q"]}).primal)
    shared = torch.autograd.grad(together, list(values.values()))
    alone = [torch.zeros_like(g) for g in shared]
    for i in range(4):
        x = opened(single).solve(1, {**values, "q": many["q"][i]}).primal
        for total, part in zip(
            alone, torch.autograd.grad(weighted(x), list(values.values())), strict=True
        ):
            total += part
    for left, right in zip(shared, alone, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)
    assert float(shared[0].abs().max()) > 1e-3


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("scaled", [("P", "q"), ("q", "b", "h", "lower", "upper")])
def test_units_of_the_data_do_not_matter(scaled, scale):
    # qpth alone fails for objectives of 1e5, and loses digits for x of 1e-5.
    data = random_qp(3, **SIZES, batch=4)
    moved = {k: v * scale if k in scaled else v for k, v in data.items()}
    inputs = {k: v.clone().requires_grad_() for k, v in moved.items()}
    plain = {k: v.clone().requires_grad_() for k, v in data.items()}
    left, right = opened(data).solve(4, inputs), opened(data).solve(4, plain)
    assert set(left.status) == {Status.OPTIMAL}
    size = 1 if "P" in scaled else scale
    torch.testing.assert_close(left.primal, right.primal * size, rtol=1e-9, atol=1e-9 * size)
    (got,) = torch.autograd.grad(weighted(left.primal), inputs["q"])
    (wanted,) = torch.autograd.grad(weighted(right.primal), plain["q"])
    factor = scale if "P" in scaled else 1
    torch.testing.assert_close(got * factor, wanted, rtol=1e-6, atol=1e-6)


def test_no_inequalities():
    data = random_qp(7, 6, 2, bounds=False, batch=3)
    inputs = {k: v.clone().requires_grad_() for k, v in data.items()}
    solution = opened(data).solve(3, inputs)
    kkt = torch.zeros(3, 8, 8, dtype=torch.float64)
    kkt[:, :6, :6], kkt[:, 6:, :6], kkt[:, :6, 6:] = data["P"], data["A"], data["A"].mT
    exact = torch.linalg.solve(kkt, torch.cat([-data["q"], data["b"]], -1))[:, :6]
    torch.testing.assert_close(solution.primal, exact, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(weighted(solution.primal), inputs["q"])
    weight = torch.cat([torch.arange(1.0, 7), torch.zeros(2)]).double().expand(3, 8)
    torch.testing.assert_close(gradient, -torch.linalg.solve(kkt, weight)[:, :6], rtol=0, atol=1e-7)


def test_no_constraints_at_all():
    data = random_qp(8, 5, bounds=False, batch=2)
    solution = opened(data).solve(2, data)
    exact = -torch.linalg.solve(data["P"], data["q"])
    torch.testing.assert_close(solution.primal, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("constant", [True, False])
def test_dependent_equalities_are_left_out(constant):
    data = random_qp(9, **SIZES)
    expected = opened(data).solve(1, data).primal
    mix = data["A"][0] + 2 * data["A"][1]
    data["A"] = torch.cat([data["A"], data["A"][:1], mix[None], torch.zeros(1, 8).double()])
    sums = torch.stack([data["b"][0], data["b"][0] + 2 * data["b"][1]])
    data["b"] = torch.cat([data["b"], sums, torch.zeros(1).double()])
    names = ["q"] if constant else list(data)
    problem = Opened(declare(data, names))
    values = {k: data[k].clone().requires_grad_() for k in names}
    for _ in range(2):
        solution = problem.solve(1, values)
        assert solution.status == (Status.OPTIMAL,)
        torch.testing.assert_close(solution.primal, expected, rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(weighted(solution.primal), values["q"])
    assert bool(gradient.isfinite().all())
    contradictory = {**data, "b": data["b"] + torch.tensor([0, 0, 0.1, 0, 0]).double()}
    assert opened(data).solve(1, contradictory).status == (Status.INFEASIBLE,)


def test_samples_may_differ_in_which_equalities_are_dependent():
    data = random_qp(10, **SIZES, batch=3)
    data["A"][1, 1], data["b"][1, 1] = 2 * data["A"][1, 0], 2 * data["b"][1, 0]
    solution = opened(data).solve(3, data)
    assert solution.status == (Status.OPTIMAL,) * 3
    for i in range(3):
        expected = reference({k: v[i] for k, v in data.items()})
        torch.testing.assert_close(solution.primal[i], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("constant", [True, False])
def test_infinite_limits_are_absent_and_get_no_gradient(constant):
    data = random_qp(11, **SIZES)
    data["h"][::2] = INF
    data["lower"][::3] = -INF
    data["upper"][5:] = INF
    names = ["q"] if constant else list(data)
    inputs = {k: data[k].clone().requires_grad_() for k in names}
    solution = Opened(declare(data, names)).solve(1, inputs)
    assert solution.status == (Status.OPTIMAL,)
    torch.testing.assert_close(solution.primal[0].detach(), reference(data), rtol=0, atol=1e-9)
    weighted(solution.primal).backward()
    if not constant:
        assert bool((inputs["h"].grad[::2] == 0).all())
        assert bool((inputs["G"].grad[::2] == 0).all())
        assert bool((inputs["lower"].grad[::3] == 0).all())
        assert bool((inputs["upper"].grad[5:] == 0).all())
    assert all(bool(t.grad.isfinite().all()) for t in inputs.values())


def test_a_limit_may_be_infinite_for_some_samples_only():
    data = random_qp(12, **SIZES, batch=3)
    data["h"][1, 0], data["lower"][2, 3], data["upper"][0, :4] = INF, -INF, INF
    inputs = {k: v.clone().requires_grad_() for k, v in data.items()}
    solution = opened(data).solve(3, inputs)
    weighted(solution.primal).backward()
    for i in range(3):
        expected = reference({k: v[i] for k, v in data.items()})
        torch.testing.assert_close(solution.primal[i].detach(), expected, rtol=0, atol=1e-9)
    assert float(inputs["h"].grad[1, 0]) == 0
    assert float(inputs["lower"].grad[2, 3]) == 0
    assert all(bool(t.grad.isfinite().all()) for t in inputs.values())


@pytest.mark.parametrize("everywhere", [True, False])
def test_equal_bounds_fix_a_variable(everywhere):
    data = random_qp(13, **SIZES, batch=3)
    chosen = slice(None) if everywhere else slice(1, 2)
    data["lower"][chosen, 4] = data["upper"][chosen, 4] = 0.45
    inputs = {k: v.clone().requires_grad_() for k, v in data.items()}
    solution = opened(data).solve(3, inputs)
    assert solution.status == (Status.OPTIMAL,) * 3
    assert float(solution.primal[1, 4].detach()) == pytest.approx(0.45, abs=1e-10)
    for i in range(3):
        expected = reference({k: v[i] for k, v in data.items()})
        torch.testing.assert_close(solution.primal[i].detach(), expected, rtol=0, atol=1e-8)
    weighted(solution.primal).backward()
    total = inputs["lower"].grad[1, 4] + inputs["upper"].grad[1, 4]

    def moved(value: Tensor) -> Tensor:
        row = {k: v[1].clone() for k, v in data.items()}
        row["lower"][4] = row["upper"][4] = value
        return weighted(reference(row))

    expected = difference(moved, torch.tensor(0.45, dtype=torch.float64))
    assert float(total) == pytest.approx(float(expected), abs=1e-4)


def simplex(n: int) -> QuadraticProgram:
    ones = torch.ones(1, n, dtype=torch.float64)
    return QuadraticProgram(
        P=torch.eye(n, dtype=torch.float64),
        q=Param(n),
        A=ones,
        b=ones[:, 0],
        lower=torch.zeros(n, dtype=torch.float64),
        upper=torch.ones(n, dtype=torch.float64),
    )


@pytest.mark.parametrize("level", [0.0, 0.7, -0.7, 1e3])
@pytest.mark.parametrize("batch", [1, 2])
def test_uniform_data_give_the_right_derivative(level, batch):
    # qpth's predictor divides by 0 here: the right x, multipliers of the first iterate, and a
    # derivative that is off by more than 1.
    n = 5
    q = torch.full((batch, n), level, dtype=torch.float64)
    q[1:] = torch.arange(n) / 10
    q.requires_grad_()
    solution = Opened(simplex(n)).solve(batch, {"q": q})
    assert solution.status == (Status.OPTIMAL,) * batch
    torch.testing.assert_close(
        solution.primal[0].detach(),
        torch.full((n,), 1 / n, dtype=torch.float64),
        rtol=0,
        atol=1e-10,
    )
    (gradient,) = torch.autograd.grad(weighted(solution.primal), q)
    weight = torch.arange(1.0, n + 1, dtype=torch.float64)
    torch.testing.assert_close(gradient[0], weight.mean() - weight, rtol=0, atol=1e-5)


def test_the_check_notices_stale_multipliers(monkeypatch):
    monkeypatch.setattr(session_module, "SPREADS", (0.0,))
    q = torch.zeros(1, 5, dtype=torch.float64)
    solution = Opened(simplex(5)).solve(1, {"q": q})
    assert solution.status == (Status.INACCURATE,)
    assert "derivative off" in solution.messages[0]


def failing_data() -> tuple[dict[str, Tensor], dict[int, Status]]:
    data = random_qp(14, **SIZES, batch=8)
    data["b"][1] += 1000.0
    data["lower"][2, 3] = data["upper"][2, 3] + 1.0
    data["q"][4, 0] = float("nan")
    data["P"][5] = 0.0
    data["h"][6, 1] = float("nan")
    failing = {1: Status.INFEASIBLE, 2: Status.INFEASIBLE, 4: Status.NUMERICAL}
    return data, {**failing, 5: Status.NUMERICAL, 6: Status.NUMERICAL}


def risk_steps(batch: int, n: int = 20) -> tuple[dict[str, Tensor], Tensor]:
    """Return the QPs of an SQP step at a portfolio of known multipliers, and their solutions, all 0.

    In natural units: prices of 0.1, variances of 1e-4, so that the row of the risk is 1e-5 beside 1
    for the bounds, and its multiplier is 1e4.
    """
    generator = torch.Generator().manual_seed(0)
    loadings = 0.0025 * (2 * torch.rand(n, 4, generator=generator, dtype=torch.float64) - 1)
    V = loadings @ loadings.T + 1e-4 * torch.eye(n, dtype=torch.float64)
    weights = torch.rand(batch, n, generator=generator, dtype=torch.float64)
    held = weights > 0.4
    x = torch.where(held, weights, 0.0)
    x = x / x.sum(-1, keepdim=True)
    risk = 2 * x @ V
    mu = 1e3 * (1 + torch.rand(batch, 1, generator=generator, dtype=torch.float64))
    lower = torch.where(held, 0.0, 1e-2 * (0.1 + weights))
    data = {
        "P": 2 * mu.unsqueeze(-1) * V,
        "q": lower - 0.1 - mu * risk,
        "A": torch.ones(batch, 1, n, dtype=torch.float64),
        "b": torch.zeros(batch, 1, dtype=torch.float64),
        "G": risk.unsqueeze(1),
        "h": torch.zeros(batch, 1, dtype=torch.float64),
        "lower": -x,
    }
    return data, torch.zeros_like(x)


def test_rows_of_different_sizes_are_solved_alone_as_in_a_batch(monkeypatch):
    """Neither by another path, nor because other samples keep qpth going."""
    monkeypatch.setattr(session_module, "SPREADS", (0.0,))
    data, exact = risk_steps(16)
    together = opened(data).solve(16, data)
    assert not together.failed, together.messages
    for i in range(16):
        alone = opened(one(data, i)).solve(1, one(data, i))
        assert alone.status == (Status.OPTIMAL,), (i, alone.messages)
        torch.testing.assert_close(alone.primal[0], together.primal[i], rtol=0, atol=1e-7)
        torch.testing.assert_close(alone.primal, exact[i : i + 1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("unit", [1e-7, 1e7])
def test_the_unit_of_one_row_does_not_matter(monkeypatch, unit):
    monkeypatch.setattr(session_module, "SPREADS", (0.0,))
    data = random_qp(5, **SIZES, batch=4)
    expected = opened(data).solve(4, data)
    for rows, limits in (("G", "h"), ("A", "b")):
        scaled = {name: value.clone() for name, value in data.items()}
        scaled[rows][:, 0] *= unit
        scaled[limits][:, 0] *= unit
        found = opened(scaled).solve(4, scaled)
        assert not found.failed, found.messages
        torch.testing.assert_close(found.primal, expected.primal, rtol=0, atol=1e-9)


def test_failed_samples_are_named_and_harm_no_other():
    data, expected = failing_data()
    clean = random_qp(14, **SIZES, batch=8)
    left = {k: v.clone().requires_grad_() for k, v in data.items()}
    right = {k: v.clone().requires_grad_() for k, v in clean.items()}
    solution, wanted = opened(data).solve(8, left), opened(clean).solve(8, right)
    weighted(solution.primal).backward()
    good = [i for i in range(8) if i not in expected]
    weighted(wanted.primal[good]).backward()
    for i in range(8):
        assert solution.status[i] is expected.get(i, Status.OPTIMAL), (i, solution.messages[i])
        assert (i in expected) == bool(solution.messages[i])
    torch.testing.assert_close(solution.primal[good], wanted.primal[good], rtol=0, atol=1e-9)
    for name in data:
        assert bool((left[name].grad[list(expected)] == 0).all()), name
        torch.testing.assert_close(left[name].grad, right[name].grad, rtol=0, atol=1e-6)


def test_an_infeasible_sample_does_not_spoil_the_gradient_of_shared_data():
    data = random_qp(15, **SIZES)
    b = torch.stack([data["b"], data["b"] + 1000])
    inputs = {k: v.clone().requires_grad_() for k, v in data.items() if k != "b"}
    solution = opened(data).solve(2, {**inputs, "b": b})
    assert solution.status == (Status.OPTIMAL, Status.INFEASIBLE)
    together = torch.autograd.grad(weighted(solution.primal), list(inputs.values()))
    alone = opened(data).solve(1, {**inputs, "b": data["b"]}).primal
    for left, right in zip(
        together, torch.autograd.grad(weighted(alone), list(inputs.values())), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-7)


def test_sparse_data_give_the_solution_of_dense_data():
    data = random_qp(16, **SIZES)
    rows, cols = data["G"].nonzero().T
    values = data["G"][rows, cols].requires_grad_()
    sparse = Sparse(rows, cols, (5, 8), Param(values.numel(), name="G"))
    problem = QuadraticProgram(**{**data, "G": sparse, "q": Param(8)})
    solution = Opened(problem).solve(1, {"q": data["q"], "G": values})
    dense = data["G"].detach().clone().requires_grad_()
    expected = opened(data).solve(1, {**data, "G": dense}).primal
    torch.testing.assert_close(solution.primal, expected, rtol=0, atol=1e-10)
    (left,) = torch.autograd.grad(weighted(solution.primal), values)
    (right,) = torch.autograd.grad(weighted(expected), dense)
    torch.testing.assert_close(left, right[rows, cols], rtol=0, atol=1e-7)


def test_dtype_is_kept_and_numbers_are_solved_in_double_precision():
    data = random_qp(17, **SIZES, batch=2, dtype=torch.float32)
    inputs = {k: v.clone().requires_grad_() for k, v in data.items()}
    solution = opened(data).solve(2, inputs)
    assert solution.primal.dtype == torch.float32
    double = {k: v.double() for k, v in data.items()}
    assert torch.equal(solution.primal, opened(double).solve(2, double).primal.float())
    weighted(solution.primal).backward()
    assert inputs["P"].grad.dtype == torch.float32


def test_size_one():
    P = torch.full((1, 1), 2.0, dtype=torch.float64)
    problem = QuadraticProgram(P=P, q=Param(1), lower=torch.tensor([-1.0], dtype=torch.float64))
    for batch in (1, 2):
        q = torch.linspace(1, 4, batch, dtype=torch.float64).unsqueeze(-1).requires_grad_()
        solution = Opened(problem).solve(batch, {"q": q})
        expected = (-q / 2).clamp(min=-1)
        torch.testing.assert_close(solution.primal, expected, rtol=0, atol=1e-10)
        (gradient,) = torch.autograd.grad(solution.primal.sum(), q)
        torch.testing.assert_close(
            gradient, torch.where(q < 2, -0.5, 0.0).double(), rtol=0, atol=1e-6
        )


def test_results_do_not_depend_on_history():
    data = random_qp(18, **SIZES, batch=4)
    problem = opened(data)
    first = problem.solve(4, data).primal
    problem.solve(1, one(data, 2))
    failing, _ = failing_data()
    opened(failing).solve(8, failing)
    assert torch.equal(problem.solve(4, data).primal, first)
    assert torch.equal(opened(data).solve(4, data).primal, first)


def test_without_gradients_nothing_is_kept():
    data = random_qp(19, **SIZES)
    assert not opened(data).solve(1, data).primal.requires_grad
    inputs = {k: v.clone().requires_grad_() for k, v in data.items()}
    with torch.no_grad():
        assert not opened(data).solve(1, inputs).primal.requires_grad


def test_a_second_derivative_raises_instead_of_being_wrong():
    data = random_qp(20, **SIZES)
    P = data["P"].clone().requires_grad_()
    x = opened(data).solve(1, {**data, "P": P}).primal
    (gradient,) = torch.autograd.grad(weighted(x), P, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_nothing_is_printed(capfd):
    data, _ = failing_data()
    opened(data).solve(8, data)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_batches_of_large_programs_do_not_hang():
    # qpth's batched LU never returns from n = 200, batch 8 and two threads on some machines.
    code = """
import torch
from foldcore_qpth import QpthConfig, QpthSolver
from foldcore.testing.problems import declare, random_qp
torch.set_num_threads(2)
data = random_qp(0, 200, 5, 5, bounds=False, batch=8)
data = {k: v.requires_grad_() for k, v in data.items()}
problem = declare(data, data.keys())
session = QpthSolver(QpthConfig()).open(problem.structure)
solution = session.solve(problem.bind(data, 8), changed=frozenset(data))
solution.primal.sum().backward()
assert not solution.failed and data["P"].grad.isfinite().all()
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, check=True, timeout=180, capture_output=True, text=True)
    assert "ERROR" not in run.stdout + run.stderr  # what oneMKL prints before it hangs


def test_max_iter_has_an_effect():
    data = random_qp(21, **SIZES, batch=2)
    solution = opened(data, max_iter=2).solve(2, data)
    assert set(solution.status) == {Status.INACCURATE}
    assert opened(data, max_iter=30).solve(2, data).failed == ()


def test_rtol_reaches_qpth(monkeypatch):
    data = random_qp(22, **SIZES)
    asked, sent = [], []

    def noted(*args, **options):
        asked.append(options["eps"])
        return QPFunction(*args, **options)

    monkeypatch.setattr(attempt, "QPFunction", noted)
    for rtol in (1e-3, 1e-12):
        solution = opened(data, rtol=rtol, check_rtol=1.0).solve(1, data)
        assert len(set(asked)) == 1
        sent.append(asked.pop())
        asked.clear()
    assert sent[0] / sent[1] == pytest.approx(1e9)
    assert float((solution.primal - reference(data)).abs().max()) < 1e-9


def test_check_rtol_has_an_effect():
    data = random_qp(23, **SIZES)
    assert opened(data, check_rtol=0.0).solve(1, data).status == (Status.INACCURATE,)
    assert opened(data).solve(1, data).status == (Status.OPTIMAL,)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="extra"):
        QpthConfig(eps=1e-3)
    with pytest.raises(ValueError, match="greater than 0"):
        QpthConfig(rtol=0)
    for field in QpthConfig.model_fields.values():
        assert "(" in field.description or "unit" in field.description


def test_the_plugin_declares_itself():
    (entry,) = entry_points(group="foldcore.solvers", name="qpth")
    assert entry.load() is QpthSolver
    structure = declare(random_qp(0, 3), ["q"]).structure
    assert structure.problem_class is ProblemClass.QP
    assert QpthSolver.rank(structure) == 2
    solver = QpthSolver(QpthConfig())
    assert solver.unsupported_reason(structure) is None
    singular = QuadraticProgram(P=torch.zeros(2, 2), q=Param(2))
    assert "singular" in solver.unsupported_reason(singular.structure)
    linear = QuadraticProgram(q=Param(2), lower=0.0)
    assert "lp" in solver.unsupported_reason(linear.structure)
