"""The Clarabel plugin: accuracy and signs, cones, statuses, independence of history, options."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import clarabel
import joblib
import numpy as np
import pytest
import scipy.optimize
import torch
from foldcore_clarabel import ClarabelConfig, ClarabelSolver
from foldcore_clarabel.model import ClarabelModel
from foldcore_clarabel.polish import Points, Polisher
from torch import Tensor

import foldcore
from foldcore import Param, ProblemClass, QuadraticProgram, Sparse, Status, kkt_report
from foldcore.testing.opened import Opened, same_sample
from foldcore.testing.problems import declare, random_qp

INF = float("inf")
SIZES = {"n": 30, "n_equality": 10, "n_inequality": 15}
FIELDS = ("P", "q", "A", "b", "G", "h", "lower", "upper")
PARTS = ("equality", "inequality", "lower", "upper")


def opened_on(problem: QuadraticProgram, **options: object) -> Opened:
    return Opened(ClarabelSolver(ClarabelConfig(**options)), problem)


def opened(data: Mapping[str, Tensor], **options: object) -> Opened:
    return opened_on(declare(data, data.keys()), **options)


def one(data: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    return {name: value[sample : sample + 1] for name, value in data.items()}


def random_qcqp(seed: int, n: int, rows: int, batch: int | None = None) -> dict[str, Tensor]:
    """Return QCQPs that x = 0 satisfies strictly, with 3 equalities, 5 inequalities and bounds."""
    generator = torch.Generator().manual_seed(seed)
    lead = () if batch is None else (batch,)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)

    def positive(*shape: int) -> Tensor:
        drawn = torch.rand(*lead, *shape, generator=generator, dtype=torch.float64)
        return 0.2 + drawn

    factor, factors = normal(n, n) / n**0.5, normal(rows, n, n) / n**0.5
    eye = torch.eye(n, dtype=torch.float64)
    return {
        "P": factor @ factor.mT + 0.1 * eye,
        "q": 3 * normal(n),
        "A": normal(3, n) / n**0.5,
        "b": 0 * normal(3),
        "G": normal(5, n) / n**0.5,
        "h": positive(5),
        "lower": -1 - positive(n),
        "upper": 1 + positive(n),
        "quadratic_P": factors @ factors.mT,
        "quadratic_q": normal(rows, n) / n**0.5,
        "quadratic_r": positive(rows),
    }


def declared(data: Mapping[str, Tensor], params: tuple[str, ...]) -> QuadraticProgram:
    """Declare fields without a batch dimension, some of them as parameters."""
    shapes = {k: Param(*v.shape, psd=k == "P") if k in params else v for k, v in data.items()}
    return QuadraticProgram(**shapes)


@pytest.mark.parametrize("decades", [0.0, 2.0, 4.0])
def test_random_qps_satisfy_kkt_with_signed_duals(decades):
    data = random_qp(1, **SIZES, batch=20, decades=decades)
    problem = opened(data)
    solution = problem.solve(20, data)
    assert set(solution.status) == {Status.OPTIMAL}
    program = problem.bind(20, data)
    report = kkt_report(program, solution.primal, solution.duals)[0]
    assert float(report.stationarity.max()) < 1e-11
    assert float(report.primal.max()) < 1e-11
    assert float(report.residual.max()) < 1e-6  # complementarity of nearly inactive rows
    duals = solution.duals
    for part in (duals.inequality, duals.lower, duals.upper):
        assert bool((part >= 0).all())
    active = (duals.inequality > 1e-6).sum(-1) + (duals.lower + duals.upper > 1e-6).sum(-1)
    assert float(active.double().mean()) > 5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_qcqps_satisfy_kkt_with_signed_duals(seed):
    data = random_qcqp(seed, 20, 3)
    problem = opened_on(declared(data, ("q", "quadratic_r")))
    factor = torch.linspace(0.5, 1.5, 16, dtype=torch.float64)[:, None]
    values = {"q": data["q"] * factor, "quadratic_r": data["quadratic_r"] * factor.flip(0)}
    solution = problem.solve(16, values)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(16, values, solution).max()) < 1e-10
    multipliers = solution.duals.inequality[:, 5:]
    assert bool((multipliers >= 0).all())
    assert int((multipliers > 1e-3).sum()) > 20


def test_multipliers_of_cones_are_right_without_polishing():
    data = random_qcqp(0, 20, 3)
    problem = opened_on(declared(data, ("q",)), polishing=0)
    polished = opened_on(declared(data, ("q",))).solve(1, {"q": data["q"]})
    solution = problem.solve(1, {"q": data["q"]})
    assert float(problem.residual(1, {"q": data["q"]}, solution)) < 1e-4
    torch.testing.assert_close(
        solution.duals.inequality, polished.duals.inequality, rtol=1e-3, atol=1e-4
    )


def test_ball_in_closed_form():
    # min qx with ½|x|² <= r: x = -√(2r) q/|q| and μ = |q|/√(2r).
    n = 4
    eye, zeros = torch.eye(n, dtype=torch.float64)[None], torch.zeros(1, n, dtype=torch.float64)
    problem = QuadraticProgram(
        q=Param(n), quadratic_P=eye, quadratic_q=zeros, quadratic_r=Param(1, name="r")
    )
    q = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.3, 0.0, 0.0, 4.0]], dtype=torch.float64)
    r = torch.tensor([[1e-2], [30.0]], dtype=torch.float64)
    solution = opened_on(problem).solve(2, {"q": q, "r": r})
    norm, radius = q.norm(dim=-1, keepdim=True), (2 * r).sqrt()
    torch.testing.assert_close(solution.primal, -radius * q / norm, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(solution.duals.inequality, norm / radius, rtol=1e-10, atol=0)


def test_rows_without_curvature_and_of_low_rank_are_cones_too():
    n = 3
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(n, generator=generator, dtype=torch.float64)
    hessians = torch.stack([torch.zeros(n, n).double(), vector[:, None] * vector])
    data = {
        "P": torch.eye(n, dtype=torch.float64),
        "q": torch.tensor([-3.0, 1.0, -2.0], dtype=torch.float64),
        "quadratic_P": hessians,
        "quadratic_q": torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64),
        "quadratic_r": torch.tensor([1.0, 0.1], dtype=torch.float64),
    }
    problem = opened_on(declared(data, ("q",)))
    solution = problem.solve(1, {"q": data["q"]})
    assert solution.status == (Status.OPTIMAL,)
    assert float(problem.residual(1, {"q": data["q"]}, solution)) < 1e-11
    assert bool((solution.duals.inequality > 1e-3).all())


def test_signs_of_duals_in_closed_form():
    # min ½x² + qx: slope x + q must be balanced by the one constraint that binds.
    one_by_one = torch.ones(1, 1, dtype=torch.float64)
    base = {"P": one_by_one, "q": Param(1)}

    def solve(q: float, **constraint: Tensor) -> Any:
        values = {"q": torch.tensor([q], dtype=torch.float64)}
        return opened_on(QuadraticProgram(**base, **constraint)).solve(1, values).duals

    limit = torch.tensor([0.25], dtype=torch.float64)
    assert float(solve(-1.0, upper=limit).upper) == pytest.approx(0.75, abs=1e-9)
    assert float(solve(1.0, lower=limit).lower) == pytest.approx(1.25, abs=1e-9)
    assert float(solve(-1.0, G=one_by_one, h=limit).inequality) == pytest.approx(0.75, abs=1e-9)
    assert float(solve(-1.0, A=one_by_one, b=limit).equality) == pytest.approx(0.75, abs=1e-9)
    assert float(solve(1.0, A=one_by_one, b=limit).equality) == pytest.approx(-1.25, abs=1e-9)
    pinned = solve(1.0, lower=limit, upper=limit)
    assert float(pinned.lower) == pytest.approx(1.25, abs=1e-9)
    assert float(pinned.upper) == 0


def test_random_lps_agree_with_scipy():
    data = random_qp(2, **SIZES, batch=10)
    del data["P"]
    problem = opened(data)
    solution = problem.solve(10, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(10, data, solution).max()) < 1e-9
    for i in range(10):
        bounds = torch.stack([data["lower"][i], data["upper"][i]], -1).tolist()
        names = ("q", "G", "h", "A", "b")
        reference = scipy.optimize.linprog(*(data[name][i] for name in names), bounds=bounds)
        value = float(data["q"][i] @ solution.primal[i])
        assert value == pytest.approx(reference.fun, rel=1e-9)


@pytest.mark.parametrize("varying", [("q",), ("q", "b", "h", "lower", "upper"), ("P",), FIELDS])
def test_results_of_qps_do_not_depend_on_earlier_calls(varying):
    single, many = random_qp(3, **SIZES), random_qp(3, **SIZES, batch=6)
    values = {name: many[name] for name in varying}
    if varying != FIELDS:  # other matrices and limits would make most samples infeasible
        spread = 1 + 0.02 * torch.arange(6, dtype=torch.float64)
        values = {k: single[k] * spread.reshape(-1, *[1] * single[k].ndim) for k in varying}
    if "h" in varying:
        values["h"][1::2, 3] = INF  # another set of rows
        values["upper"][2, 4] = values["lower"][2, 4]
    problem = declare(single, varying)
    session = opened_on(problem)
    together = session.solve(6, values)
    backwards = session.solve(6, {k: v.flip(0) for k, v in values.items()})
    for i in range(6):
        alone = opened_on(problem).solve(1, one(values, i))
        assert same_sample(alone, together, 0, i)
        assert same_sample(alone, backwards, 0, 5 - i)
    assert sum(status.ok for status in together.status) >= 4


@pytest.mark.parametrize("varying", [("q",), ("q", "quadratic_r", "h"), ("quadratic_P",)])
def test_results_of_qcqps_do_not_depend_on_earlier_calls(varying):
    data = random_qcqp(3, 10, 2)
    spread = torch.linspace(0.8, 1.2, 5, dtype=torch.float64)
    values = {k: data[k] * spread.reshape(-1, *[1] * data[k].ndim) for k in varying}
    problem = declared(data, varying)
    session = opened_on(problem)
    together = session.solve(5, values)
    backwards = session.solve(5, {k: v.flip(0) for k, v in values.items()})
    for i in range(5):
        alone = opened_on(problem).solve(1, one(values, i))
        assert alone.status == (Status.OPTIMAL,)
        assert same_sample(alone, together, 0, i)
        assert same_sample(alone, backwards, 0, 4 - i)


def test_a_model_with_memory_would_be_noticed(monkeypatch):
    # Built with the first sample's vectors, a model is scaled by them.
    single = random_qp(3, **SIZES)
    values = {"q": single["q"] * torch.linspace(1, 1e3, 4, dtype=torch.float64)[:, None]}
    problem = declare(single, ["q"])
    zeros, built = np.zeros, clarabel.DefaultSolver

    def own(P: Any, q: Any, *rest: Any) -> Any:
        return built(P, values["q"][own.sample].numpy(), *rest)

    monkeypatch.setattr(clarabel, "DefaultSolver", own)
    fresh = []
    for own.sample in range(4):
        fresh.append(opened_on(problem).solve(1, one(values, own.sample)))
    own.sample = 0
    together = opened_on(problem).solve(4, values)
    assert zeros is np.zeros
    assert not all(same_sample(fresh[i], together, 0, i) for i in range(4))


def failing_data() -> tuple[dict[str, Tensor], dict[int, Status]]:
    data = random_qp(5, **SIZES, batch=8)
    expected = {
        1: Status.INFEASIBLE,
        2: Status.INFEASIBLE,
        4: Status.NUMERICAL,
        5: Status.NUMERICAL,
        6: Status.NONCONVEX,
    }
    data["b"][1] += 1000.0
    data["lower"][2, 3] = data["upper"][2, 3] + 1.0
    data["q"][4, 0] = float("nan")
    data["P"][5, 0, 0] = INF
    data["P"][6] -= 30 * torch.eye(30, dtype=torch.float64)
    return data, expected


def test_failed_samples_are_named_and_harm_no_other():
    data, expected = failing_data()
    clean = random_qp(5, **SIZES, batch=8)
    solution, reference = opened(data).solve(8, data), opened(clean).solve(8, clean)
    for i in range(8):
        assert solution.status[i] is expected.get(i, Status.OPTIMAL), (i, solution.messages[i])
        assert solution.messages[i]
        assert (i in expected) or same_sample(solution, reference, i, i)


def test_an_indefinite_quadratic_row_is_named_and_harms_no_other():
    data = random_qcqp(3, 10, 2)
    values = {"quadratic_P": data["quadratic_P"].repeat(3, 1, 1, 1)}
    values["quadratic_P"][1, 0] -= torch.eye(10, dtype=torch.float64)
    problem = declared(data, ("quadratic_P",))
    solution = opened_on(problem).solve(3, values)
    assert solution.status == (Status.OPTIMAL, Status.NONCONVEX, Status.OPTIMAL)
    assert "quadratic row" in solution.messages[1]
    alone = opened_on(problem).solve(1, one(values, 0))
    assert all(same_sample(alone, solution, 0, i) for i in (0, 2))


def test_a_refusal_lasts_until_the_refused_part_changes():
    data = random_qcqp(3, 10, 2)
    bad = dict(data, quadratic_P=data["quadratic_P"] - torch.eye(10, dtype=torch.float64))
    problem = opened_on(declared(data, tuple(data)))

    def status(values: dict[str, Tensor], changed: set[str]) -> Status:
        program = problem.bind(1, values)
        return problem.session.solve(program, changed=frozenset(changed)).status[0]

    assert status(data, set(data)) is Status.OPTIMAL
    assert status(bad, {"quadratic_P"}) is Status.NONCONVEX
    assert status(bad, {"q", "P", "h"}) is Status.NONCONVEX
    assert status(data, {"quadratic_P"}) is Status.OPTIMAL


def test_an_indefinite_sparse_hessian_is_named():
    index = torch.arange(3)
    problem = QuadraticProgram(
        P=Sparse(index, index, (3, 3), Param(3, name="P")),
        q=torch.ones(3, dtype=torch.float64),
        lower=-1.0,
        upper=1.0,
    )
    values = torch.tensor([[1.0, -1e-3, 1.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    solution = opened_on(problem).solve(2, {"P": values})
    assert solution.status == (Status.NONCONVEX, Status.OPTIMAL)


def test_an_exception_of_clarabel_is_that_samples_own(monkeypatch):
    data = random_qp(5, **SIZES, batch=4)
    reference = opened(data).solve(4, data)
    call, calls = ClarabelModel._call, []

    def fails_once(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise Exception("planted")
        return call(self, *arguments)

    monkeypatch.setattr(ClarabelModel, "_call", fails_once)
    solution = opened(data).solve(4, data)
    assert solution.status[1] is Status.NUMERICAL
    assert "planted" in solution.messages[1]
    assert all(same_sample(solution, reference, i, i) for i in (0, 2, 3))


def test_an_unbounded_program_is_named():
    q = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    solution = opened_on(QuadraticProgram(q=Param(2), lower=0.0)).solve(1, {"q": q})
    assert solution.status == (Status.UNBOUNDED,)
    assert solution.messages == ("DualInfeasible",)


def test_an_infeasible_qcqp_is_named():
    data = random_qcqp(3, 10, 2)
    values = {"quadratic_r": torch.tensor([[1.0, -100.0], [1.0, 1.0]], dtype=torch.float64)}
    solution = opened_on(declared(data, ("quadratic_r",))).solve(2, values)
    assert solution.status == (Status.INFEASIBLE, Status.OPTIMAL)
    assert solution.messages[0] == "PrimalInfeasible"


def test_an_infinite_quadratic_limit_is_absent():
    data = random_qcqp(3, 10, 2)
    values = {"quadratic_r": data["quadratic_r"].repeat(2, 1)}
    values["quadratic_r"][1, 0] = INF
    solution = opened_on(declared(data, ("quadratic_r",))).solve(2, values)
    assert float(solution.duals.inequality[1, 5]) == 0
    reduced = {k: v[1:] if k.startswith("quadratic") else v for k, v in data.items()}
    without = opened_on(declared(reduced, ("quadratic_r",)))
    without = without.solve(1, {"quadratic_r": reduced["quadratic_r"]})
    torch.testing.assert_close(solution.primal[1], without.primal[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("constant", [True, False])
def test_infinite_limits_are_absent(constant):
    data = random_qp(6, **SIZES)
    data["h"][::2] = INF
    data["lower"][::3] = -INF
    data["upper"][1::3] = INF
    data["lower"][5], data["upper"][5] = -INF, INF
    names = ["q"] if constant else list(data)
    problem = opened_on(declare(data, names))
    values = {k: data[k] for k in names}
    solution = problem.solve(1, values)
    assert solution.status == (Status.OPTIMAL,)
    assert float(problem.residual(1, values, solution)) < 1e-6
    assert bool((solution.duals.inequality[0, ::2] == 0).all())
    assert bool((solution.duals.lower[0, ::3] == 0).all())
    assert bool((solution.duals.upper[0, 1::3] == 0).all())
    reduced = dict(data, G=data["G"][1::2], h=data["h"][1::2])
    without = opened(reduced).solve(1, reduced)
    torch.testing.assert_close(solution.primal, without.primal, rtol=0, atol=1e-12)


def test_equal_bounds_fix_a_variable():
    data = random_qp(7, **SIZES, batch=3)
    data["lower"][:, 4] = data["upper"][:, 4] = 0.3
    problem = opened(data)
    solution = problem.solve(3, data)
    assert float(problem.residual(3, data, solution).max()) < 1e-6
    assert bool(((solution.primal[:, 4] - 0.3).abs() < 1e-12).all())


def test_sparse_data_give_the_solution_of_dense_data():
    data = random_qp(9, 12, 3, 5, batch=3)
    reference = opened(data).solve(3, data)
    values, fields = dict(data), {k: Param(*v.shape[1:]) for k, v in data.items()}
    for name in ("P", "A", "G"):
        rows, cols = data[name].abs().sum(0).nonzero().T
        fields[name] = Sparse(rows, cols, data[name].shape[1:], Param(rows.numel(), name=name))
        values[name] = data[name][:, rows, cols]
    solution = opened_on(QuadraticProgram(**fields)).solve(3, values)
    torch.testing.assert_close(solution.primal, reference.primal, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batched", [("q",), ("P",), ("A", "h"), ("lower", "G"), ("b", "upper")])
def test_shared_and_batched_data_mix(batched):
    single = random_qp(10, 12, 3, 5)
    factor = 1 + 0.1 * torch.arange(4, dtype=torch.float64)
    mixed = {
        k: v * factor.reshape(-1, *[1] * v.ndim) if k in batched and k != "lower" else v
        for k, v in single.items()
    }
    mixed["lower"] = single["lower"] - (factor[:, None] if "lower" in batched else 0)
    expanded = {
        k: v.expand(4, *v.shape) if v.ndim == single[k].ndim else v for k, v in mixed.items()
    }
    left, right = opened(single).solve(4, mixed), opened(single).solve(4, expanded)
    assert set(left.status) == {Status.OPTIMAL}
    assert all(same_sample(left, right, i, i) for i in range(4))


def test_dtype_is_kept_and_numbers_are_solved_in_double_precision():
    data = random_qp(13, **SIZES, batch=2, dtype=torch.float32)
    solution = opened(data).solve(2, data)
    assert solution.primal.dtype == torch.float32
    assert solution.duals.upper.dtype == torch.float32
    double = {k: v.double() for k, v in data.items()}
    reference = opened(double).solve(2, double)
    assert torch.equal(solution.primal, reference.primal.float())


def test_inputs_are_not_touched_nor_kept():
    data = random_qcqp(8, 10, 2)
    before = {k: v.clone() for k, v in data.items()}
    problem = opened_on(declared(data, tuple(data)))
    first = problem.solve(1, data)
    kept = first.primal.clone()
    assert all(torch.equal(data[k], before[k]) for k in data)
    for value in data.values():
        value.zero_()
    assert same_sample(first, problem.solve(1, before))
    assert torch.equal(first.primal, kept)


def test_small_programs_work():
    one_by_one, two = torch.ones(1, 1, dtype=torch.float64), torch.tensor([2.0]).double()
    free = QuadraticProgram(P=one_by_one, q=Param(1))
    assert float(opened_on(free).solve(1, {"q": two}).primal) == pytest.approx(-2, abs=1e-10)
    bounded = QuadraticProgram(P=one_by_one, q=Param(1), lower=-1.0)
    assert float(opened_on(bounded).solve(1, {"q": two}).primal) == pytest.approx(-1, abs=1e-10)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_two_workers_give_what_one_gives(backend):
    data, expected = failing_data()
    one_worker = opened(data).solve(8, data)
    with joblib.parallel_config(backend=backend):
        problem = opened(data, workers=2)
        for _ in range(2):
            two = problem.solve(8, data)
            assert two.status == one_worker.status
            good = [i for i in range(8) if i not in expected]
            assert all(same_sample(two, one_worker, i, i) for i in good)


@pytest.fixture
def folding() -> dict[str, str]:
    """Return the rule and adjoint solver of a folded layer; skip where one is not installed."""
    parts = {"rule": "newton", "adjoint": "direct"}
    for kind in parts.values():
        pytest.importorskip(f"foldcore_{kind}", reason=f"needs foldcore-{kind}")
    return parts


def test_a_layer_can_be_pickled_after_use(folding):
    data = random_qp(9, 12, 3, 5)
    layer = foldcore.build(
        {"problem": declare(data, ["q"]), "solver": {"kind": "clarabel"}, **folding}
    )
    q = data["q"].requires_grad_()
    x = layer(q=q)
    copy = pickle.loads(pickle.dumps(layer))
    assert torch.equal(copy(q=q), x)


def test_gradients_of_a_qcqp_agree_with_differences(folding):
    data = random_qcqp(2, 8, 2)
    problem = declared(data, ("q", "quadratic_r"))
    layer = foldcore.build({"problem": problem, "solver": "clarabel", **folding})
    inputs = (data["q"].requires_grad_(), data["quadratic_r"].requires_grad_())
    assert torch.autograd.gradcheck(
        lambda q, r: layer(q=q, quadratic_r=r), inputs, eps=1e-6, atol=1e-7
    )


OPTION_DATA = random_qp(15, **SIZES, batch=4, decades=2)


def iterations(**options: object) -> int:
    return sum(opened(OPTION_DATA, **options).solve(4, OPTION_DATA).iterations)


def test_tolerances_have_an_effect():
    tight = iterations()
    assert iterations(rtol=1e-3) < tight  # the gap passes one of the two
    assert iterations(atol=1e-3) < tight


def test_cone_tol_and_polishing_have_an_effect():
    data = random_qcqp(2, 20, 3)

    def solved(**options: float) -> tuple[int, float]:
        problem = opened_on(declared(data, ("q",)), **options)
        solution = problem.solve(1, {"q": data["q"]})
        return sum(solution.iterations), float(problem.residual(1, {"q": data["q"]}, solution))

    assert solved(cone_tol=1e-4)[0] < solved()[0]
    assert solved(polishing=1)[1] <= solved(polishing=0)[1]
    assert solved()[1] < 1e-10


def test_accept_decides_on_points_that_rounding_stops():
    stalled = {"rtol": 1e-18, "atol": 0.0}
    accepted = opened(OPTION_DATA, **stalled).solve(4, OPTION_DATA)
    refused = opened(OPTION_DATA, **stalled, accept=1e-18).solve(4, OPTION_DATA)
    assert set(accepted.status) == {Status.OPTIMAL}
    assert "AlmostSolved" in accepted.messages
    assert Status.NUMERICAL in refused.status


def test_max_iter_has_an_effect():
    solution = opened(OPTION_DATA, max_iter=1).solve(4, OPTION_DATA)
    assert set(solution.status) == {Status.ITERATION_LIMIT}
    assert solution.messages[0] == "MaxIterations"


def test_time_limit_has_an_effect():
    solution = opened(OPTION_DATA, time_limit=1e-9).solve(4, OPTION_DATA)
    assert set(solution.status) == {Status.TIME_LIMIT}
    assert opened(OPTION_DATA, time_limit=100.0).solve(4, OPTION_DATA).failed == ()


def test_equilibrate_has_an_effect():
    solutions = [opened(OPTION_DATA, equilibrate=e).solve(4, OPTION_DATA) for e in (True, False)]
    assert not torch.equal(solutions[0].primal, solutions[1].primal)


def test_settings_reach_clarabel(monkeypatch):
    seen, built = [], clarabel.DefaultSolver

    def recorded(*arguments: Any) -> Any:
        seen.append(arguments[-1])
        return built(*arguments)

    monkeypatch.setattr(clarabel, "DefaultSolver", recorded)
    data = random_qp(9, 12, 3, 5, batch=2)
    opened(data, direct_solve_method="qdldl", threads=3).solve(2, data)
    assert seen[0].direct_solve_method == "qdldl"
    assert seen[0].max_threads == 3
    with joblib.parallel_config(backend="threading"):
        opened(data, threads=3, workers=2).solve(2, data)
    assert seen[-1].max_threads == 1


def test_verbose_has_an_effect(capfd):
    opened(OPTION_DATA).solve(4, OPTION_DATA)
    assert capfd.readouterr().out == ""
    opened(OPTION_DATA, verbose=True).solve(4, OPTION_DATA)
    assert "Clarabel" in capfd.readouterr().out


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="extra"):
        ClarabelConfig(tol_feas=1e-3)
    for field in ClarabelConfig.model_fields.values():
        assert "(" in field.description or "unit" in field.description


def test_the_plugin_declares_itself():
    (entry,) = entry_points(group="foldcore.solvers", name="clarabel")
    assert entry.load() is ClarabelSolver
    assert ClarabelSolver.unusable_reason() is None
    structure = declare(random_qp(0, 3), ["q"]).structure
    assert ClarabelSolver.rank(structure) == 6
    conic = declared(random_qcqp(0, 3, 1), ("q",)).structure
    assert conic.problem_class is ProblemClass.QCQP
    assert ClarabelSolver.rank(conic) == 12
    ClarabelSolver(ClarabelConfig()).open(structure).close()


@pytest.mark.parametrize("polishing", [0, 2])
def test_rows_are_the_answers_of_single_samples(polishing, monkeypatch):
    n, batch = 12, 20
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    problem = QuadraticProgram(
        q=Param(n),
        A=torch.ones(1, n, dtype=torch.float64),
        b=torch.ones(1, dtype=torch.float64),
        lower=0.0,
        quadratic_P=(factor.mT @ factor)[None],
        quadratic_q=torch.zeros(1, n, dtype=torch.float64),
        quadratic_r=torch.full((1,), 0.05, dtype=torch.float64),
    )
    values = {"q": torch.randn(batch, n, generator=generator, dtype=torch.float64)}
    iterations = sorted(opened_on(problem).solve(batch, values).iterations)
    assert iterations[0] < iterations[-1]
    options = {"polishing": polishing, "max_iter": iterations[10]}
    together = opened_on(problem, **options).solve(batch, values)
    part = opened_on(problem, **options).solve(3, {"q": values["q"][5:8]})
    monkeypatch.setattr(ClarabelModel, "solve_rows", lambda *_: None)
    alone = opened_on(problem, **options).solve(batch, values)
    assert together.status == alone.status
    assert set(alone.status) == {Status.OPTIMAL, Status.ITERATION_LIMIT}
    assert together.messages == alone.messages
    assert together.iterations == alone.iterations
    for found, expected in ((together, alone), (part, None)):
        rows = slice(5, 8) if expected is None else slice(None)
        assert torch.equal(found.primal.nan_to_num(7.0), alone.primal[rows].nan_to_num(7.0))
        for name, duals in vars(found.duals).items():
            others = getattr(alone.duals, name)[rows]
            assert torch.equal(duals.nan_to_num(7.0), others.nan_to_num(7.0))


def test_a_singular_sample_leaves_the_polishing_of_the_others_alone():
    unit, none = np.eye(2), np.zeros((0, 2, 2))
    twice = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    polisher = Polisher(
        P=unit, E=np.zeros((0, 2)), e=np.zeros(0), L=twice, l=np.ones(3),
        hessians=none, vectors=np.zeros((0, 2)), r=np.zeros(0),
    )  # fmt: skip
    q = np.array([[-3.0, 0.0], [0.0, -3.0], [-2.0, -2.0]])
    x = np.array([[1.0, 1e-3], [1e-3, 1.0], [1.0, 1.0]])
    w = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.1], [0.9, 0.0, 1.1]])
    start = Points(x, np.zeros((3, 0)), w)
    found = polisher.polish(q, start, 2, 1e-14)
    assert np.array_equal(found.x[0], x[0])  # both of two equal rows count as active
    np.testing.assert_allclose(found.x[1:], [[0, 1], [1, 1]], atol=1e-15)
    np.testing.assert_allclose(found.inequality[1:], [[0, 0, 2], [1, 0, 1]], atol=1e-15)
    for i in range(3):
        one = polisher.polish(q[i : i + 1], start.take(np.arange(3) == i), 2, 1e-14)
        assert np.array_equal(one.x[0], found.x[i])
        assert np.array_equal(one.inequality[0], found.inequality[i])
