"""The HiGHS plugin: accuracy and signs, statuses, independence of history, options, workers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from importlib.metadata import entry_points

import highspy
import pytest
import scipy.optimize
import torch
from foldcore_highs import HighsConfig, HighsSolver
from foldcore_highs.model import HighsModel
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

INF, F64 = float("inf"), torch.float64
SIZES = {"n": 30, "n_equality": 10, "n_inequality": 15}
METHODS = ["choose", "simplex", "ipm", "pdlp"]


def opened_on(problem: QuadraticProgram, **options: object) -> Opened:
    return Opened(HighsSolver(HighsConfig(**options)), problem)


def opened(data: Mapping[str, Tensor], **options: object) -> Opened:
    return opened_on(declare(data, data.keys()), **options)


def linear(data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in data.items() if name != "P"}


def one(data: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    return {name: value[sample : sample + 1] for name, value in data.items()}


@pytest.mark.parametrize("decades", [0.0, 2.0, 4.0])
def test_random_qps_satisfy_kkt_with_signed_duals(decades):
    data = random_qp(1, **SIZES, batch=20, decades=decades)
    problem = opened(data)
    solution = problem.solve(20, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert set(solution.messages) == {"Optimal"}
    assert float(problem.residual(20, data, solution).max()) < 1e-11
    duals = solution.duals
    for part in (duals.inequality, duals.lower, duals.upper):
        assert bool((part >= 0).all())
    active = (duals.inequality > 1e-6).sum(-1) + (duals.lower + duals.upper > 1e-6).sum(-1)
    assert float(active.double().mean()) > 5


@pytest.mark.parametrize("method", METHODS)
def test_random_lps_satisfy_kkt_and_agree_with_scipy(method):
    data = linear(random_qp(2, **SIZES, batch=10))
    problem = opened(data, method=method)
    solution = problem.solve(10, data)
    assert set(solution.status) == {Status.OPTIMAL}
    limit = 1e-8 if method == "pdlp" else 1e-12
    assert float(problem.residual(10, data, solution).max()) < limit
    for i in range(10):
        bounds = torch.stack([data["lower"][i], data["upper"][i]], -1).tolist()
        reference = scipy.optimize.linprog(
            *(data[name][i] for name in ("q", "G", "h", "A", "b")), bounds=bounds
        )
        assert float(data["q"][i] @ solution.primal[i]) == pytest.approx(reference.fun, rel=1e-7)


def test_qps_that_highs_gives_up_are_solved_in_other_units(monkeypatch):
    data = one(random_qp(15, **SIZES, batch=400), 67)
    problem = opened(data)
    solution = problem.solve(1, data)
    assert solution.status == (Status.OPTIMAL,)
    assert float(problem.residual(1, data, solution)) < 1e-11
    assert same_sample(problem.solve(1, data), solution)
    monkeypatch.setattr("foldcore_highs.model.BOUND_SCALES", ())
    refused = opened(data).solve(1, data)
    assert (refused.status, refused.messages) == ((Status.NUMERICAL,), ("Solve error",))


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


@pytest.mark.parametrize(
    ("hessian", "q", "lower", "status", "value"),
    [
        ([[1, 0], [0, 0]], [1, 1], -1.0, Status.OPTIMAL, -1.5),
        ([[1, 0], [0, 0]], [1, 0], -INF, Status.OPTIMAL, -0.5),
        ([[1, 1], [1, 1]], [1, 1], -INF, Status.OPTIMAL, -0.5),
        ([[1, 1], [1, 1]], [1, 0.9999], -1e6, Status.OPTIMAL, None),
        ([[1, 0], [0, 0]], [1, 1], -INF, Status.UNBOUNDED, None),
        ([[1, 1], [1, 1]], [1, 0], -INF, Status.UNBOUNDED, None),
        ([[0, 0], [0, 0]], [1, 0], -INF, Status.UNBOUNDED, None),
    ],
)
def test_semidefinite_hessians_are_solved_as_given(hessian, q, lower, status, value):
    problem = opened_on(
        QuadraticProgram(P=torch.tensor(hessian, dtype=F64), q=Param(2), lower=lower, upper=-lower)
    )
    values = {"q": torch.tensor(q, dtype=F64)}
    solution = problem.solve(1, values)
    assert solution.status == (status,)
    if status is Status.OPTIMAL:
        assert float(problem.residual(1, values, solution)) < 1e-9
    if value is not None:
        objective = problem.bind(1, values).objective(solution.primal)
        assert float(objective) == pytest.approx(value, abs=1e-12)
    # The proximal steps leave nothing behind.
    again = problem.solve(1, values)
    assert again.status == solution.status
    assert status is not Status.OPTIMAL or same_sample(again, solution)


@pytest.mark.parametrize("kind", ["lp", "qp"])
@pytest.mark.parametrize("varying", ["q", "vectors", "all"])
def test_results_do_not_depend_on_history(varying, kind):
    single, many = random_qp(3, **SIZES, decades=1), random_qp(3, **SIZES, batch=6, decades=1)
    if kind == "lp":
        single, many = linear(single), linear(many)
    names = {"q": ["q"], "vectors": ["q", "b", "h", "lower", "upper"]}.get(varying, [*single])
    values = {k: many[k] if varying == "all" else _spread(single[k], k) for k in names}
    problem = declare({**single, **values}, names)
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
    return value + 0.01 * steps * {"b": 0, "h": 1, "lower": -1, "upper": 1}[name]


def test_a_model_with_memory_would_be_noticed(monkeypatch):
    # A transport problem with many optimal vertices: from another basis, another vertex.
    n = 6
    base = {"q": Param(n), "A": torch.ones(1, n, dtype=F64), "b": torch.ones(1, dtype=F64)}
    problem = QuadraticProgram(**base, lower=0.0)
    tie = torch.ones(1, n, dtype=F64)
    leaning = torch.tensor([[3.0, 3, 3, 3, 3, 1]], dtype=F64)
    fresh = opened_on(problem).solve(1, {"q": tie})
    used = opened_on(problem)
    used.solve(1, {"q": leaning})
    assert same_sample(used.solve(1, {"q": tie}), fresh)
    kept = highspy.HighsStatus.kOk
    monkeypatch.setattr(highspy.Highs, "clearSolver", lambda self: kept)
    used = opened_on(problem)
    used.solve(1, {"q": leaning})
    assert not same_sample(used.solve(1, {"q": tie}), fresh)


def test_only_what_changed_is_sent(monkeypatch):
    calls: list[str] = []
    for name in ("passModel", "passHessian", "changeColsCost", "changeColsBounds"):
        original = getattr(highspy.Highs, name)

        def spy(self, *args, _name=name, _original=original):
            calls.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(highspy.Highs, name, spy)
    data = random_qp(4, **SIZES, batch=3)
    single = {k: v[0] for k, v in data.items()}
    problem = opened_on(declare(single, ["q"]))
    problem.solve(3, {"q": data["q"]})
    problem.solve(3, {"q": data["q"]})
    assert calls == ["passModel", "passHessian", *["changeColsCost"] * 5]


def test_a_warm_start_is_used_by_lps_and_leaves_no_trace():
    data = linear(random_qp(4, **SIZES, batch=3))
    problem = opened(data)
    cold = problem.solve(3, data)
    warm = problem.solve(3, data, warm=cold)
    assert sum(warm.iterations) < sum(cold.iterations) / 2
    torch.testing.assert_close(warm.primal, cold.primal, rtol=0, atol=1e-9)
    assert same_sample(problem.solve(3, data), cold)
    broken = Solution(cold.primal * float("nan"), cold.status)
    assert same_sample(problem.solve(3, data, warm=broken), cold)


def failing_data() -> tuple[dict[str, Tensor], dict[int, Status]]:
    data = random_qp(5, **SIZES, batch=9)
    data["b"][1] += 1000.0
    data["lower"][2, 3] = data["upper"][2, 3] + 1.0
    data["q"][4, 0] = float("nan")
    data["P"][5, 0, 0] = INF
    data["P"][6] -= 30 * torch.eye(30, dtype=F64)
    data["h"][7, 0] = -INF
    return data, {
        1: Status.INFEASIBLE,
        2: Status.INFEASIBLE,
        4: Status.NUMERICAL,
        5: Status.NUMERICAL,
        6: Status.NONCONVEX,
        7: Status.INFEASIBLE,
    }


def test_failed_samples_are_named_and_harm_no_other():
    data, expected = failing_data()
    clean = random_qp(5, **SIZES, batch=9)
    problem = opened_on(declare(data, data.keys(), psd=False))
    solution, reference = problem.solve(9, data), opened(clean).solve(9, clean)
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


@pytest.mark.parametrize("how", ["exception", "refusal"])
def test_trouble_inside_highs_is_that_samples_own(how, monkeypatch):
    data = random_qp(5, **SIZES, batch=4)
    reference = opened(data).solve(4, data)
    pass_hessian, calls = highspy.Highs.passHessian, []

    def fails_once(self, *args):
        calls.append(1)
        if len(calls) == 2:
            if how == "exception":
                raise ValueError("planted")
            return highspy.HighsStatus.kError
        return pass_hessian(self, *args)

    monkeypatch.setattr(highspy.Highs, "passHessian", fails_once)
    solution = opened(data).solve(4, data)
    assert solution.status[1] is Status.NUMERICAL
    assert {"exception": "planted", "refusal": "P was refused"}[how] in solution.messages[1]
    assert all(same_sample(solution, reference, i, i) for i in (0, 2, 3))


def test_a_good_status_with_nan_is_not_believed(monkeypatch):
    data = random_qp(5, **SIZES)
    get_solution = highspy.Highs.getSolution

    def poisoned(self):
        solution = get_solution(self)
        solution.col_value = [float("nan")] * 30
        return solution

    monkeypatch.setattr(highspy.Highs, "getSolution", poisoned)
    solution = opened(data).solve(1, data)
    assert solution.status == (Status.NUMERICAL,)
    assert "NaN" in solution.messages[0]


def test_infeasible_and_unbounded_at_once_is_infeasible():
    rows = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=F64)
    problem = QuadraticProgram(q=Param(2), A=rows, b=torch.tensor([0.0, 1.0], dtype=F64))
    values = {"q": torch.tensor([-1.0, -1.0], dtype=F64)}
    assert opened_on(problem).solve(1, values).status == (Status.INFEASIBLE,)
    feasible = QuadraticProgram(q=Param(2), A=rows, b=torch.zeros(2, dtype=F64))
    opened_once = opened_on(feasible)
    assert opened_once.solve(1, values).status == (Status.UNBOUNDED,)
    balanced = {"q": torch.tensor([-1.0, 1.0], dtype=F64)}
    assert opened_once.solve(1, balanced).status == (Status.OPTIMAL,)


@pytest.mark.parametrize("batched", [True, False])
def test_an_indefinite_sparse_hessian_is_named(batched):
    # HiGHS alone returns a stationary point of some indefinite QPs as optimal.
    rows, cols = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 2])
    problem = QuadraticProgram(
        P=Sparse(rows, cols, (3, 3), Param(5, name="P")),
        q=torch.ones(3, dtype=F64),
        lower=-1.0,
        upper=1.0,
    )
    bad = torch.tensor([1.0, 2.0, 2.0, 1.0, 1.0], dtype=F64)
    good = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0], dtype=F64)
    if batched:
        solution = opened_on(problem).solve(2, {"P": torch.stack([bad, good])})
        assert solution.status == (Status.NONCONVEX, Status.OPTIMAL)
    else:
        assert opened_on(problem).solve(2, {"P": bad}).status == (Status.NONCONVEX,) * 2
        assert opened_on(problem).solve(2, {"P": good}).status == (Status.OPTIMAL,) * 2


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
    assert float(problem.residual(1, values, solution)) < 1e-11
    assert bool((solution.duals.inequality[0, ::2] == 0).all())
    assert bool((solution.duals.lower[0, ::3] == 0).all())
    assert bool((solution.duals.upper[0, 1::3] == 0).all())


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
        dense = data[name]
        rows, cols = dense.abs().sum(0).nonzero().T
        fields[name] = Sparse(rows, cols, dense.shape[1:], Param(rows.numel(), name=name))
        values[name] = dense[:, rows, cols]
    solution = opened_on(QuadraticProgram(**fields)).solve(3, values)
    assert solution.status == (Status.OPTIMAL,) * 3
    torch.testing.assert_close(solution.primal, reference.primal, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        solution.duals.inequality, reference.duals.inequality, rtol=0, atol=1e-9
    )


def test_a_constant_that_changes_after_all_is_taken_up():
    data = random_qp(11, 12, 3, 5)
    problem = opened_on(declare(data, ["q"]))
    problem.solve(1, {"q": data["q"]})
    other = random_qp(12, 12, 3, 5)
    program = problem.problem.bind({**problem.problem.constants, **other}, 1)
    solution = problem.session.solve(program, changed=frozenset(other))
    assert float(kkt_report(program, solution.primal, solution.duals)[0].residual) < 1e-11


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
    problem = declare(data, data.keys(), psd=False)
    alone, shared = opened_on(problem).solve(9, data), opened_on(problem, workers=2).solve(9, data)
    assert alone.status == shared.status
    assert alone.messages == shared.messages
    assert all(same_sample(alone, shared, i, i) for i in range(9) if i not in expected)


def test_a_layer_is_pickled_after_use_and_differentiates():
    for plugin in ("newton", "direct"):
        pytest.importorskip(f"foldcore_{plugin}", reason=f"folds with foldcore-{plugin}")
    data = random_qp(14, 8, 2, 3)
    config = {"problem": declare(data, ["q"]), "solver": {"kind": "highs"}, "rule": "newton"}
    layer = build(config)
    q = data["q"].clone().requires_grad_()
    weights = torch.linspace(-1, 1, 8, dtype=F64)
    (layer(q=q) @ weights).sum().backward()
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        step, direction = 1e-5, torch.linspace(1, 2, 8, dtype=F64)
        moved = [(twin(q=data["q"] + s * step * direction) @ weights).sum() for s in (1, -1)]
        slope = float(moved[0] - moved[1]) / (2 * step)
        assert float(q.grad @ direction) == pytest.approx(slope, rel=1e-7)


OPTION_DATA = random_qp(15, **SIZES, batch=4, decades=2)
OPTION_LP = linear(OPTION_DATA)


def iterations(data: Mapping[str, Tensor], **options: object) -> tuple[int, ...]:
    return opened(data, **options).solve(4, data).iterations


def test_rtol_and_atol_have_an_effect():
    tight = sum(iterations(OPTION_LP, method="pdlp"))
    assert sum(iterations(OPTION_LP, method="pdlp", rtol=1e-3)) < tight
    assert sum(iterations(OPTION_LP, method="pdlp", atol=1e-3)) < tight


def test_tolerances_below_those_of_highs_are_taken_as_its_smallest():
    solution = opened(OPTION_LP, rtol=0.0, atol=0.0).solve(4, OPTION_LP)
    assert solution.status == (Status.OPTIMAL,) * 4


@pytest.mark.parametrize("method", ["qp", *METHODS])
def test_max_iter_has_an_effect(method):
    options = {} if method == "qp" else {"method": method}
    data = OPTION_DATA if method == "qp" else OPTION_LP
    solution = opened(data, max_iter=1, **options).solve(4, data)
    assert set(solution.status) == {Status.ITERATION_LIMIT}
    assert set(solution.messages) == {"Iteration limit reached"}


def test_method_has_an_effect():
    counts = {iterations(OPTION_LP, method=method) for method in ("simplex", "ipm", "pdlp")}
    assert len(counts) == 3


def test_threads_have_an_effect_and_may_differ_in_one_process():
    serial, parallel = iterations(OPTION_LP, threads=1), iterations(OPTION_LP, threads=2)
    assert serial != parallel
    assert iterations(OPTION_LP, threads=1) == serial
    assert iterations(OPTION_LP, threads=2) == parallel


def test_time_limit_has_an_effect_and_is_of_each_sample():
    solution = opened(OPTION_DATA, time_limit=1e-9).solve(4, OPTION_DATA)
    assert set(solution.status) == {Status.TIME_LIMIT}
    # HiGHS's own clock runs on: 400 solves together exceed the limit of one.
    data = random_qp(15, **SIZES, batch=400)
    assert opened(data, time_limit=0.3).solve(400, data).failed == ()


def test_a_method_for_lps_is_refused_for_qps():
    solver = HighsSolver(HighsConfig(method="ipm"))
    reason = solver.unsupported_reason(declare(OPTION_DATA, OPTION_DATA.keys()).structure)
    assert "'ipm'" in reason
    assert solver.unsupported_reason(declare(OPTION_LP, OPTION_LP.keys()).structure) is None


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="extra"):
        HighsConfig(eps=1e-3)
    with pytest.raises(ValueError, match="'choose', 'simplex'"):
        HighsConfig(method="barrier")
    for field in HighsConfig.model_fields.values():
        assert "(" in field.description or "unit" in field.description


def test_the_plugin_declares_itself():
    (entry,) = entry_points(group="foldcore.solvers", name="highs")
    assert entry.load() is HighsSolver
    assert HighsSolver.unusable_reason() is None
    qp = declare(OPTION_DATA, OPTION_DATA.keys()).structure
    lp = declare(OPTION_LP, OPTION_LP.keys()).structure
    assert (qp.problem_class, HighsSolver.rank(qp)) == (ProblemClass.QP, 8.0)
    assert (lp.problem_class, HighsSolver.rank(lp)) == (ProblemClass.LP, 25.0)
    session = HighsSolver(HighsConfig()).open(qp)
    session.close()
    assert isinstance(HighsSolver(HighsConfig()).model(qp, single_thread=True), HighsModel)
