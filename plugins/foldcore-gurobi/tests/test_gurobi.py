"""The Gurobi plugin: accuracy and signs by class, statuses, independence of history, options, workers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from importlib.metadata import entry_points

import gurobipy as gp
import pytest
import torch
from foldcore_gurobi import GurobiConfig, GurobiSolver
from foldcore_gurobi.model import GurobiModel
from foldcore_gurobi.model_parameters import parameters_for
from torch import Tensor

from foldcore import (
    Param,
    ProblemClass,
    QuadraticProgram,
    Solution,
    Sparse,
    Status,
    build,
    kkt_report,
)
from foldcore.testing.opened import Opened, same_sample
from foldcore.testing.problems import declare, random_qp

REASON = GurobiSolver.unusable_reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"gurobi: {REASON}")

INF, F64 = float("inf"), torch.float64
SIZES = {"n": 30, "n_equality": 10, "n_inequality": 15}


def opened_on(problem: QuadraticProgram, **options: object) -> Opened:
    return Opened(GurobiSolver(GurobiConfig(**options)), problem)


def opened(data: Mapping[str, Tensor], **options: object) -> Opened:
    return opened_on(declare(data, data.keys()), **options)


def linear(data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in data.items() if name != "P"}


def one(data: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    return {name: value[sample : sample + 1] for name, value in data.items()}


def random_qcqp(seed: int, batch: int) -> dict[str, Tensor]:
    """Return strictly feasible convex QCQPs of 12 variables with two quadratic rows."""
    data = random_qp(seed, 12, 2, 4, batch=batch)
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(batch, 2, 12, 12, generator=generator, dtype=F64) / 12**0.5
    slope = torch.randn(batch, 2, 12, generator=generator, dtype=F64)
    hessian = factor @ factor.mT
    point = torch.full((12,), 0.5, dtype=F64)
    value = torch.einsum("i,bkij,j->bk", point, hessian, point) / 2 + slope @ point
    return {
        **data,
        "quadratic_P": hessian,
        "quadratic_q": slope,
        "quadratic_r": value + 0.05,
    }


def declare_qcqp(data: Mapping[str, Tensor]) -> QuadraticProgram:
    psd = ("P", "quadratic_P")
    return QuadraticProgram(**{k: Param(*v.shape[1:], psd=k in psd) for k, v in data.items()})


@pytest.mark.parametrize("decades", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("kind", ["lp", "qp"])
def test_random_lps_and_qps_satisfy_kkt_with_signed_duals(kind, decades):
    data = random_qp(1, **SIZES, batch=20, decades=decades)
    data = linear(data) if kind == "lp" else data
    problem = opened(data)
    solution = problem.solve(20, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert set(solution.messages) == {"OPTIMAL"}
    assert float(problem.residual(20, data, solution).max()) < 1e-12
    duals = solution.duals
    for part in (duals.inequality, duals.lower, duals.upper):
        assert bool((part >= 0).all())
    active = (duals.inequality > 1e-6).sum(-1) + (duals.lower + duals.upper > 1e-6).sum(-1)
    assert float(active.double().mean()) > 5


def test_random_qcqps_satisfy_kkt_with_signed_duals():
    data = random_qcqp(2, 20)
    problem = opened_on(declare_qcqp(data))
    assert problem.problem.structure.problem_class is ProblemClass.QCQP
    solution = problem.solve(20, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(20, data, solution).max()) < 1e-4
    assert float(problem.residual(20, data, solution).median()) < 1e-5
    assert bool((solution.duals.inequality >= 0).all())
    curved = solution.duals.inequality[:, 4:]
    assert int((curved > 1e-3).sum()) > 10


def test_a_ball_in_closed_form():
    # min cᵀx s.t. ½‖x‖² <= r: x = -c·√(2r)/‖c‖, μ = ‖c‖/√(2r).
    c, r = torch.tensor([3.0, 4.0], dtype=F64), 2.0
    problem = QuadraticProgram(
        q=Param(2),
        quadratic_P=torch.eye(2, dtype=F64)[None],
        quadratic_q=torch.zeros(1, 2, dtype=F64),
        quadratic_r=Param(1),
    )
    values = {"q": c, "quadratic_r": torch.tensor([[r], [2 * r], [r]], dtype=F64)}
    solution = opened_on(problem).solve(3, values)
    length = (2 * values["quadratic_r"]).sqrt()
    torch.testing.assert_close(solution.primal, -c * length / 5, rtol=0, atol=1e-9)
    torch.testing.assert_close(solution.duals.inequality, 5 / length, rtol=1e-8, atol=0)


def test_signs_of_duals_in_closed_form():
    # min ½x² + qx: slope x + q must be balanced by the one constraint that binds.
    one_by_one = torch.ones(1, 1, dtype=F64)
    base = {"P": one_by_one, "q": Param(1)}

    def solve(q: float, **constraint: Tensor) -> Solution:
        values = {"q": torch.tensor([q], dtype=F64)}
        return opened_on(QuadraticProgram(**base, **constraint)).solve(1, values)

    limit = torch.tensor([0.25], dtype=F64)
    assert float(solve(-1.0, upper=limit).duals.upper) == pytest.approx(0.75, abs=1e-12)
    assert float(solve(1.0, lower=limit).duals.lower) == pytest.approx(1.25, abs=1e-12)
    assert float(solve(-1.0, G=one_by_one, h=limit).duals.inequality) == pytest.approx(0.75)
    assert float(solve(-1.0, A=one_by_one, b=limit).duals.equality) == pytest.approx(0.75)
    assert float(solve(1.0, A=one_by_one, b=limit).duals.equality) == pytest.approx(-1.25)


@pytest.mark.parametrize("kind", ["lp", "qp", "qcqp"])
@pytest.mark.parametrize("varying", ["q", "vectors", "all"])
def test_results_do_not_depend_on_history(varying, kind):
    many = random_qcqp(3, 6) if kind == "qcqp" else random_qp(3, **SIZES, batch=6)
    many = linear(many) if kind == "lp" else many
    vectors = [k for k in many if k not in ("P", "A", "G", "quadratic_P", "quadratic_q")]
    names = {"q": ["q"], "vectors": vectors}.get(varying, [*many])
    values = {k: many[k] if varying == "all" else _spread(many[k][0], k) for k in names}
    fields = {k: Param(*v.shape[1:], psd=True) if k in names else v[0] for k, v in many.items()}
    problem = QuadraticProgram(**fields)
    together = opened_on(problem).solve(6, values)
    assert set(together.status) == {Status.OPTIMAL}
    backwards = opened_on(problem)
    for i in reversed(range(6)):
        fresh = opened_on(problem).solve(1, one(values, i))
        assert same_sample(fresh, together, 0, i)
        assert same_sample(fresh, backwards.solve(1, one(values, i)))


def _spread(value: Tensor, name: str) -> Tensor:
    """Six samples that differ and stay feasible."""
    steps = torch.arange(6, dtype=F64).unsqueeze(-1)
    if name == "q":
        return value * (1 + steps)
    sign = {"b": 0, "h": 1, "lower": -1, "upper": 1, "quadratic_r": 1}[name]
    return value + 0.01 * steps * sign


def test_a_model_with_memory_would_be_noticed(monkeypatch):
    # Many optimal vertices: from another basis, another vertex.
    n = 6
    base = {"q": Param(n), "A": torch.ones(1, n, dtype=F64), "b": torch.ones(1, dtype=F64)}
    problem = QuadraticProgram(**base, lower=0.0)
    tie = torch.ones(1, n, dtype=F64)
    leaning = torch.tensor([[3.0, 3, 3, 3, 3, 1]], dtype=F64)
    options = {"parameters": {"Presolve": 0}}
    fresh = opened_on(problem, **options).solve(1, {"q": tie})
    used = opened_on(problem, **options)
    used.solve(1, {"q": leaning})
    assert same_sample(used.solve(1, {"q": tie}), fresh)
    monkeypatch.setattr(gp.Model, "reset", lambda self, everything=0: None)
    used = opened_on(problem, **options)
    used.solve(1, {"q": leaning})
    assert not same_sample(used.solve(1, {"q": tie}), fresh)


@pytest.mark.parametrize("kind", ["lp", "qp"])
def test_a_warm_start_is_used_by_lps_and_leaves_no_trace(kind):
    data = random_qp(4, **SIZES, batch=3)
    data = linear(data) if kind == "lp" else data
    problem = opened(data)
    cold = problem.solve(3, data)
    warm = problem.solve(3, data, warm=cold)
    if kind == "lp":
        assert sum(warm.iterations) < sum(cold.iterations) / 2
    torch.testing.assert_close(warm.primal, cold.primal, rtol=0, atol=1e-8)
    assert same_sample(problem.solve(3, data), cold)
    assert problem.solve(3, data, warm=Solution(cold.primal, cold.status)).status == cold.status
    broken = Solution(cold.primal * float("nan"), cold.status)
    assert same_sample(problem.solve(3, data, warm=broken), cold)


def test_a_search_starts_from_a_given_solution(capfd):
    problem, values = indefinite(12)
    session = opened_on(problem, parameters={"OutputFlag": 1})
    cold = session.solve(1, values)
    assert "MIP start" not in capfd.readouterr().out
    warm = session.solve(1, values, warm=cold)
    assert "Loaded user MIP start" in capfd.readouterr().out
    torch.testing.assert_close(warm.primal, cold.primal, rtol=0, atol=1e-6)
    assert torch.equal(session.solve(1, values).primal, cold.primal)
    assert "MIP start" not in capfd.readouterr().out


def test_a_nonconvex_qcqp_in_closed_form():
    # The point outside of the unit ball that is nearest to p: p/‖p‖, with multiplier 1 - ‖p‖.
    p = torch.tensor([[0.3, -0.4], [0.06, 0.08]], dtype=F64)
    problem = QuadraticProgram(
        P=torch.eye(2, dtype=F64),
        q=Param(2),
        quadratic_P=-torch.eye(2, dtype=F64)[None],
        quadratic_q=torch.zeros(1, 2, dtype=F64),
        quadratic_r=-torch.full((1,), 0.5, dtype=F64),
    )
    assert problem.structure.problem_class is ProblemClass.NONCONVEX_QCQP
    bounded = opened_on(problem)
    solution = bounded.solve(2, {"q": -p})
    assert solution.status == (Status.OPTIMAL,) * 2
    assert solution.duals is None
    expected = p / p.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(solution.primal, expected, rtol=0, atol=1e-3)
    report, duals = kkt_report(bounded.bind(2, {"q": -p}), solution.primal)
    assert float(report.residual.max()) < 1e-3
    length = p.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(duals.inequality, 1 - length, rtol=0, atol=2e-3)


def test_only_what_changed_is_sent(monkeypatch):
    calls: list[str] = []
    for name in ("addMConstr", "addMQConstr", "setMObjective"):
        original = getattr(gp.Model, name)

        def spy(self, *args, _name=name, _original=original, **options):
            calls.append(_name)
            return _original(self, *args, **options)

        monkeypatch.setattr(gp.Model, name, spy)
    data = random_qcqp(3, 3)
    varying = ("q", "b", "h", "lower", "upper", "quadratic_r")
    fields = {k: Param(*v.shape[1:]) if k in varying else v[0] for k, v in data.items()}
    values = {k: _spread(data[k][0], k)[:3] for k in varying}
    problem = opened_on(QuadraticProgram(**fields))
    solution = problem.solve(3, values)
    problem.solve(3, values)
    assert calls == ["addMConstr"] * 2 + ["setMObjective"] + ["addMQConstr"] * 2
    assert float(problem.residual(3, values, solution).max()) < 1e-4


def failing_data() -> tuple[dict[str, Tensor], dict[int, Status]]:
    data = random_qp(5, **SIZES, batch=9)
    data["b"][1] += 1000.0
    data["lower"][2, 3] = data["upper"][2, 3] + 1.0
    data["q"][4, 0] = float("nan")
    data["P"][5, 0, 0] = INF
    data["upper"][6, 0] = float("nan")
    data["h"][7, 0] = -INF
    numerical = dict.fromkeys((4, 5, 6), Status.NUMERICAL)
    return data, {**dict.fromkeys((1, 2, 7), Status.INFEASIBLE), **numerical}


def test_failed_samples_are_named_and_harm_no_other():
    data, expected = failing_data()
    clean = random_qp(5, **SIZES, batch=9)
    solution, reference = opened(data).solve(9, data), opened(clean).solve(9, clean)
    for i in range(9):
        assert solution.status[i] is expected.get(i, Status.OPTIMAL), (i, solution.messages[i])
        assert solution.messages[i]
        assert i in expected or same_sample(solution, reference, i, i)


def test_a_failed_first_sample_does_not_keep_shared_data_back():
    data = random_qp(5, **SIZES, batch=3)
    single = {k: v[0] for k, v in data.items()}
    q = data["q"].clone()
    q[0, 0] = float("nan")
    solution = opened_on(declare(single, ["q"])).solve(3, {"q": q})
    reference = opened_on(declare(single, ["q"])).solve(3, {"q": data["q"]})
    assert solution.status == (Status.NUMERICAL, Status.OPTIMAL, Status.OPTIMAL)
    assert all(same_sample(solution, reference, i, i) for i in (1, 2))


def test_an_exception_of_gurobi_is_that_samples_own(monkeypatch):
    data = random_qp(5, **SIZES, batch=4)
    reference = opened(data).solve(4, data)
    optimize, calls = gp.Model.optimize, []

    def fails_once(self, callback=None):
        calls.append(1)
        if len(calls) == 2:
            raise gp.GurobiError(gp.GRB.Error.INTERNAL, "planted")
        return optimize(self, callback)

    monkeypatch.setattr(gp.Model, "optimize", fails_once)
    solution = opened(data).solve(4, data)
    assert solution.status[1] is Status.NUMERICAL
    assert "planted" in solution.messages[1]
    assert all(same_sample(solution, reference, i, i) for i in (0, 2, 3))


def quadratic_rows(limit: float) -> dict[str, Tensor]:
    return {
        "quadratic_P": torch.diag(torch.tensor([2.0, 0.0], dtype=F64))[None],
        "quadratic_q": torch.zeros(1, 2, dtype=F64),
        "quadratic_r": torch.tensor([limit], dtype=F64),
    }


EQUAL = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=F64)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"A": EQUAL, "b": torch.tensor([0.0, 1.0], dtype=F64)}, Status.INFEASIBLE),
        ({"A": EQUAL, "b": torch.zeros(2, dtype=F64)}, Status.UNBOUNDED),
        ({"P": torch.diag(torch.tensor([1.0, 0.0], dtype=F64))}, Status.UNBOUNDED),
        ({"P": torch.diag(torch.tensor([1.0, -1.0], dtype=F64))}, Status.UNBOUNDED),
        (quadratic_rows(1.0), Status.UNBOUNDED),
        (quadratic_rows(-1.0), Status.INFEASIBLE),
        (quadratic_rows(INF), Status.UNBOUNDED),
        (quadratic_rows(-INF), Status.INFEASIBLE),
    ],
)
def test_infeasible_and_unbounded_are_told_apart(fields, status):
    problem = opened_on(QuadraticProgram(q=Param(2), **fields))
    values = {"q": torch.tensor([[-1.0, -1.0], [0.0, 0.0]], dtype=F64)}
    solution = problem.solve(2, values)
    assert solution.status[0] is status, solution.messages
    # The objective that was put aside to find out is back.
    if fields.get("P") is None and status is Status.UNBOUNDED:
        assert solution.status[1] is Status.OPTIMAL
        assert problem.solve(1, one(values, 0)).status == (status,)


@pytest.mark.parametrize("constant", [True, False])
def test_infinite_limits_are_absent(constant):
    data = random_qp(6, **SIZES)
    data["h"][::2] = INF
    data["lower"][::3] = -INF
    data["upper"][1::3] = INF
    names = ["q"] if constant else list(data)
    problem = opened_on(declare(data, names))
    values = {k: data[k] for k in names}
    solution = problem.solve(1, values)
    assert solution.status == (Status.OPTIMAL,)
    assert float(problem.residual(1, values, solution)) < 1e-11
    assert bool((solution.duals.inequality[0, ::2] == 0).all())
    assert bool((solution.duals.lower[0, ::3] == 0).all())
    assert bool((solution.duals.upper[0, 1::3] == 0).all())


def test_quadratic_rows_come_and_go_with_their_limit():
    data = random_qcqp(8, 4)
    data["quadratic_r"][1, 0] = data["quadratic_r"][2] = INF
    problem = opened_on(declare_qcqp(data))
    solution = problem.solve(4, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(4, data, solution).max()) < 1e-4
    assert bool((solution.duals.inequality[2, 4:] == 0).all())


def test_equal_bounds_fix_a_variable():
    data = random_qp(7, **SIZES, batch=3)
    data["lower"][:, 4] = data["upper"][:, 4] = 0.3
    problem = opened(data)
    solution = problem.solve(3, data)
    assert float(problem.residual(3, data, solution).max()) < 1e-11
    assert bool(((solution.primal[:, 4] - 0.3).abs() < 1e-12).all())


def test_sparse_data_give_the_solution_of_dense_data():
    data = random_qp(9, 12, 3, 5, batch=3)
    data["G"] = data["G"] * (data["G"].abs() > 0.2)
    reference = opened(data).solve(3, data)
    values, fields = dict(data), {k: Param(*v.shape[1:]) for k, v in data.items()}
    for name in ("P", "A", "G"):
        rows, cols = data[name].abs().sum(0).nonzero().T
        fields[name] = Sparse(rows, cols, data[name].shape[1:], Param(rows.numel(), name=name))
        values[name] = data[name][:, rows, cols]
    solution = opened_on(QuadraticProgram(**fields)).solve(3, values)
    assert solution.status == (Status.OPTIMAL,) * 3
    torch.testing.assert_close(solution.primal, reference.primal, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        solution.duals.inequality, reference.duals.inequality, rtol=0, atol=1e-9
    )


def test_dtype_is_kept_and_inputs_are_untouched():
    data = random_qp(13, **SIZES, batch=2, dtype=torch.float32)
    before = {k: v.clone() for k, v in data.items()}
    solution = opened(data).solve(2, data)
    assert solution.primal.dtype == solution.duals.upper.dtype == torch.float32
    assert all(torch.equal(before[k], data[k]) for k in data)
    double = {k: v.double() for k, v in data.items()}
    assert torch.equal(solution.primal, opened(double).solve(2, double).primal.float())


def test_two_workers_give_what_one_gives():
    data, expected = failing_data()
    alone, shared = opened(data).solve(9, data), opened(data, workers=2).solve(9, data)
    assert alone.status == shared.status
    assert alone.messages == shared.messages
    assert all(same_sample(alone, shared, i, i) for i in range(9) if i not in expected)


def test_a_layer_is_pickled_after_use():
    for plugin in ("newton", "direct"):
        pytest.importorskip(f"foldcore_{plugin}", reason=f"folds with foldcore-{plugin}")
    data = random_qp(14, 8, 2, 3)
    config = {"problem": declare(data, ["q"]), "solver": {"kind": "gurobi"}, "rule": "newton"}
    layer = build(config)
    expected = layer(q=data["q"])
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(twin(q=data["q"]), expected)


OPTION_DATA = random_qp(15, **SIZES, batch=4, decades=2)


def iterations(data: Mapping[str, Tensor], **options: object) -> int:
    return sum(opened(data, **options).solve(4, data).iterations)


def indefinite(n: int) -> tuple[QuadraticProgram, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    P = torch.randn(n, n, generator=generator, dtype=F64)
    problem = QuadraticProgram(P=P + P.mT, q=Param(n), lower=-1.0, upper=1.0)
    return problem, {"q": P[0]}


def test_rtol_has_an_effect():
    barrier = {"parameters": {"Method": 2}}
    assert iterations(OPTION_DATA, **barrier, rtol=1e-2) < iterations(OPTION_DATA, **barrier)
    data = random_qcqp(2, 4)
    counts = [
        sum(opened_on(declare_qcqp(data), rtol=r).solve(4, data).iterations) for r in (1e-2, 1e-9)
    ]
    assert counts[0] < counts[1]


def test_atol_has_an_effect():
    # x = 1.005 violates x <= 1 by less than 1e-2, and is the only point of x = 1.005.
    one_by_one = torch.ones(1, 1, dtype=F64)
    problem = QuadraticProgram(
        q=Param(1),
        A=one_by_one,
        b=torch.tensor([1.005], dtype=F64),
        G=one_by_one,
        h=torch.ones(1, dtype=F64),
    )
    values = {"q": torch.ones(1, dtype=F64)}
    assert opened_on(problem).solve(1, values).status == (Status.INFEASIBLE,)
    assert opened_on(problem, atol=1e-2).solve(1, values).status == (Status.OPTIMAL,)


@pytest.mark.parametrize("kind", ["lp", "qp", "barrier", "qcqp", "nonconvex"])
def test_max_iter_has_an_effect(kind):
    if kind == "nonconvex":
        problem, values = indefinite(20)
        solution = opened_on(problem, max_iter=1).solve(1, values)
        assert solution.messages == ("NODE_LIMIT",)
    else:
        data = random_qcqp(2, 2) if kind == "qcqp" else random_qp(15, **SIZES, batch=2)
        data = linear(data) if kind == "lp" else data
        options = {"parameters": {"Method": 2}} if kind == "barrier" else {}
        problem = declare_qcqp(data) if kind == "qcqp" else declare(data, data.keys())
        solution = opened_on(problem, max_iter=1, **options).solve(2, data)
    assert set(solution.status) == {Status.ITERATION_LIMIT}


def test_time_limit_has_an_effect():
    solution = opened(OPTION_DATA, time_limit=1e-9).solve(4, OPTION_DATA)
    assert set(solution.status) == {Status.TIME_LIMIT}
    problem, values = indefinite(40)
    found = opened_on(problem, time_limit=0.1).solve(1, values)
    assert (found.status, found.messages) == ((Status.TIME_LIMIT,), ("TIME_LIMIT",))


def test_mip_gap_has_an_effect():
    problem, values = indefinite(20)
    exact, rough = (
        opened_on(problem).solve(1, values),
        opened_on(problem, mip_gap=0.9).solve(1, values),
    )
    assert rough.status == exact.status == (Status.OPTIMAL,)
    assert rough.iterations[0] < exact.iterations[0]


def test_threads_reach_gurobi(capfd):
    for options, shown in (({"threads": 2}, 2), ({}, 1)):
        solver = GurobiSolver(GurobiConfig(**options, parameters={"OutputFlag": 1}))
        session = solver.open(declare(OPTION_DATA, OPTION_DATA.keys()).structure)
        problem = opened_on(declare(OPTION_DATA, OPTION_DATA.keys()))
        problem.session = session
        problem.solve(4, OPTION_DATA)
        assert f"Threads  {shown}" in capfd.readouterr().out
    solver = GurobiSolver(GurobiConfig(threads=2, parameters={"OutputFlag": 1}))
    solver.model(declare(OPTION_DATA, OPTION_DATA.keys()).structure, single_thread=True)
    assert "parameter Threads to value 2" not in capfd.readouterr().out


def test_parameters_reach_gurobi_and_win():
    config = GurobiConfig(rtol=1e-3, parameters={"method": 0, "BarConvTol": 1e-4})
    structure = declare(OPTION_DATA, OPTION_DATA.keys()).structure
    asked = parameters_for(config, structure, single_thread=True)
    assert (asked["Method"], asked["BarConvTol"]) == (0, 1e-4)
    limited = opened(OPTION_DATA, time_limit=100, parameters={"timelimit": 1e-9})
    assert set(limited.solve(4, OPTION_DATA).status) == {Status.TIME_LIMIT}
    convex_only = opened_on(indefinite(5)[0], parameters={"NonConvex": 0})
    assert convex_only.solve(1, indefinite(5)[1]).status == (Status.NONCONVEX,)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"Methd": 1}, "no parameter 'Methd'. Did you mean 'Method'"),
        ({"Method": 99}, "'Method' cannot be 99"),
        ({"Method": 1.5}, "'Method' is of type int, got 1.5"),
        ({"TimeLimit": "long"}, "'TimeLimit' is of type float, got 'long'"),
        ({"LicenseID": 3}, "'LicenseID' cannot be 3"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        GurobiConfig(parameters=parameters)
    config = {
        "problem": declare(OPTION_DATA, OPTION_DATA.keys()),
        "solver": {"kind": "gurobi", "parameters": parameters},
    }
    with pytest.raises(ValueError, match=message) as caught:
        build(config)
    assert "solver.parameters" in str(caught.value)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="extra"):
        GurobiConfig(eps=1e-3)
    for field in GurobiConfig.model_fields.values():
        assert "(" in field.description or "unit" in field.description


def test_the_size_limit_of_a_licence_is_the_samples_message():
    if not _size_limited():
        pytest.skip("the licence here has no size limit")
    n = 250
    problem = QuadraticProgram(P=torch.eye(n, dtype=F64), q=Param(n))
    solution = opened_on(problem).solve(2, {"q": torch.ones(2, n, dtype=F64)})
    assert set(solution.status) == {Status.NUMERICAL}
    assert all("size-limited" in message for message in solution.messages)


def _size_limited() -> bool:
    with gp.Env(params={"OutputFlag": 0}) as env, gp.Model(env=env) as model:
        model.addMVar(2500)
        try:
            model.optimize()
        except gp.GurobiError as error:
            return error.errno == gp.GRB.Error.SIZE_LIMIT_EXCEEDED
    return False


def test_nothing_is_printed(capfd):
    opened(OPTION_DATA).solve(4, OPTION_DATA)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_plugin_declares_itself():
    (entry,) = entry_points(group="foldcore.solvers", name="gurobi")
    assert entry.load() is GurobiSolver
    qp = declare(OPTION_DATA, OPTION_DATA.keys()).structure
    assert (qp.problem_class, GurobiSolver.rank(qp)) == (ProblemClass.QP, 10.0)
    for structure in (indefinite(3)[0].structure, declare_qcqp(random_qcqp(0, 1)).structure):
        assert GurobiSolver.rank(structure) == 30.0


@pytest.mark.parametrize("curved", [False, True])
def test_rows_are_the_answers_of_single_samples(curved, monkeypatch):
    # Without curvature samples 1 and 4 are unbounded; two of them, so that the objective comes back.
    n = 4
    parts = {"quadratic_P": torch.eye(n).double()[None], "quadratic_q": torch.zeros(1, n).double()}
    parts["quadratic_r"] = torch.ones(1).double()
    problem = QuadraticProgram(
        q=Param(n), G=torch.eye(n).double()[:2], h=torch.ones(2).double(), lower=0.0,
        **(parts if curved else {}),
    )  # fmt: skip
    q = torch.randn(6, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q[:, 2:] = q[:, 2:].abs()
    q[1::3, 3] = -1.0
    together = opened_on(problem).solve(6, {"q": q})
    monkeypatch.setattr(GurobiModel, "solve_rows", lambda *_: None)
    alone = opened_on(problem).solve(6, {"q": q})
    assert together.status == alone.status
    unbounded = [status is Status.UNBOUNDED for status in alone.status]
    assert unbounded == [not curved and i % 3 == 1 for i in range(6)]
    assert together.messages == alone.messages
    assert together.iterations == alone.iterations
    assert torch.equal(together.primal.nan_to_num(7.0), alone.primal.nan_to_num(7.0))
    for name, rows in vars(together.duals).items():
        assert torch.equal(rows.nan_to_num(7.0), getattr(alone.duals, name).nan_to_num(7.0))
