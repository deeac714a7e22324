"""The DAQP plugin: accuracy and signs, statuses, independence of history, data forms, options."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib.metadata import entry_points

import daqp
import joblib
import pytest
import scipy.optimize
import torch
from foldcore_daqp import DAQPConfig, DAQPSolver
from foldcore_daqp.buffers import Buffers
from foldcore_daqp.model import DAQPModel
from torch import Tensor

import foldcore
from foldcore import Param, ProblemClass, QuadraticProgram, Solution, Sparse, Status
from foldcore.testing.opened import Opened, same_sample
from foldcore.testing.problems import declare, random_qp

INF = float("inf")
SIZES = {"n": 30, "n_equality": 10, "n_inequality": 15}
FIELDS = ("P", "q", "A", "b", "G", "h", "lower", "upper")
PARTS = ("equality", "inequality", "lower", "upper")


def opened_on(problem: QuadraticProgram, **options: object) -> Opened:
    return Opened(DAQPSolver(DAQPConfig(**options)), problem)


def opened(data: Mapping[str, Tensor], **options: object) -> Opened:
    return opened_on(declare(data, data.keys()), **options)


def one(data: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    return {name: value[sample : sample + 1] for name, value in data.items()}


def singular(seed: int, batch: int, rank: int = 20) -> dict[str, Tensor]:
    data = random_qp(seed, **SIZES, batch=batch)
    values, vectors = torch.linalg.eigh(data["P"])
    values[:, : SIZES["n"] - rank] = 0
    P = (vectors * values.unsqueeze(-2)) @ vectors.mT
    return dict(data, P=(P + P.mT) / 2)


@pytest.mark.parametrize("eq_reduction", ["auto", "on"])
@pytest.mark.parametrize("decades", [0.0, 2.0, 4.0])
def test_random_qps_satisfy_kkt_with_signed_duals(decades, eq_reduction):
    data = random_qp(1, **SIZES, batch=20, decades=decades)
    problem = opened(data, eq_reduction=eq_reduction)
    solution = problem.solve(20, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(20, data, solution).max()) < 1e-12
    duals = solution.duals
    for part in (duals.inequality, duals.lower, duals.upper):
        assert bool((part >= 0).all())
    active = (duals.inequality > 1e-6).sum(-1) + (duals.lower + duals.upper > 1e-6).sum(-1)
    assert float(active.double().mean()) > 5


def test_singular_hessians_satisfy_kkt():
    data = singular(3, 10)
    problem = opened(data)
    solution = problem.solve(10, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(10, data, solution).max()) < 1e-9


def test_signs_of_duals_in_closed_form():
    # min ½x² + qx: slope x + q must be balanced by the one constraint that binds.
    one_by_one = torch.ones(1, 1, dtype=torch.float64)
    base = {"P": one_by_one, "q": Param(1)}

    def solve(q: float, **constraint: Tensor) -> Solution:
        values = {"q": torch.tensor([q], dtype=torch.float64)}
        return opened_on(QuadraticProgram(**base, **constraint)).solve(1, values)

    limit = torch.tensor([0.25], dtype=torch.float64)
    assert float(solve(-1.0, upper=limit).duals.upper) == pytest.approx(0.75, abs=1e-14)
    assert float(solve(1.0, lower=limit).duals.lower) == pytest.approx(1.25, abs=1e-14)
    assert float(solve(-1.0, G=one_by_one, h=limit).duals.inequality) == pytest.approx(0.75)
    assert float(solve(-1.0, A=one_by_one, b=limit).duals.equality) == pytest.approx(0.75)
    assert float(solve(1.0, A=one_by_one, b=limit).duals.equality) == pytest.approx(-1.25)


def test_random_lps_agree_with_scipy():
    data = random_qp(2, **SIZES, batch=10)
    del data["P"]
    problem = opened(data)
    solution = problem.solve(10, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(10, data, solution).max()) < 1e-12
    for i in range(10):
        bounds = torch.stack([data["lower"][i], data["upper"][i]], -1).tolist()
        names = ("q", "G", "h", "A", "b")
        reference = scipy.optimize.linprog(*(data[name][i] for name in names), bounds=bounds)
        value = float(data["q"][i] @ solution.primal[i])
        assert value == pytest.approx(reference.fun, rel=1e-9)


@pytest.mark.parametrize("eq_reduction", ["auto", "on", "off"])
@pytest.mark.parametrize("varying", [("q",), ("q", "b", "h", "lower", "upper"), ("P",), FIELDS])
def test_results_do_not_depend_on_earlier_calls(varying, eq_reduction):
    single, many = random_qp(3, **SIZES), random_qp(3, **SIZES, batch=6)
    values = {name: many[name] for name in varying}
    if varying != FIELDS:  # other matrices and limits would make most samples infeasible
        spread = 1 + 0.02 * torch.arange(6, dtype=torch.float64)
        values = {k: single[k] * spread.reshape(-1, *[1] * single[k].ndim) for k in varying}
    problem = declare(single, varying)
    session = opened_on(problem, eq_reduction=eq_reduction)
    together = session.solve(6, values)
    backwards = session.solve(6, {k: v.flip(0) for k, v in values.items()})
    for i in range(6):
        alone = opened_on(problem, eq_reduction=eq_reduction).solve(1, one(values, i))
        assert same_sample(alone, together, 0, i)
        assert same_sample(alone, backwards, 0, 5 - i)
    assert sum(status.ok for status in together.status) >= 4


def test_singular_and_definite_samples_do_not_depend_on_each_other():
    definite, flat = random_qp(3, **SIZES, batch=4), singular(3, 4)
    data = {k: torch.stack([definite[k], flat[k]], 1).flatten(0, 1) for k in definite}
    together = opened(data).solve(8, data)
    for i in range(8):
        assert same_sample(opened(data).solve(1, one(data, i)), together, 0, i)


@pytest.mark.parametrize("fault", ["hot start", "vectors once"])
def test_a_model_with_memory_would_be_noticed(fault, monkeypatch):
    data = random_qp(3, **SIZES)
    values = {"q": data["q"] * torch.linspace(0.8, 1.2, 6).double()[:, None]}
    problem = declare(data, ["q"])
    fresh = [opened_on(problem, eq_reduction="off").solve(1, one(values, i)) for i in range(6)]
    update, calls = Buffers.arguments, []

    def forgetful(self, changed, sense):
        calls.append(1)
        if fault == "hot start":
            found = update(self, changed, sense)
            return found if len(calls) == 1 else {k: v for k, v in found.items() if k != "sense"}
        return {} if len(calls) == 1 else update(self, changed, sense)

    monkeypatch.setattr(Buffers, "arguments", forgetful)
    together = opened_on(problem, eq_reduction="off").solve(6, values)
    assert not all(same_sample(fresh[i], together, 0, i) for i in range(6))


@pytest.mark.parametrize("kind", ["definite", "singular", "lp"])
def test_a_warm_start_is_used_and_leaves_no_trace(kind):
    data = singular(4, 3) if kind == "singular" else random_qp(4, **SIZES, batch=3)
    if kind == "lp":
        del data["P"]
    problem = opened(data)
    cold = problem.solve(3, data)
    warm = problem.solve(3, data, warm=cold)
    assert sum(warm.iterations) < sum(cold.iterations)
    assert float((warm.primal - cold.primal).abs().max()) < 1e-9
    assert float(problem.residual(3, data, warm).max()) < 1e-9
    assert same_sample(problem.solve(3, data), cold)
    primal_only = Solution(cold.primal, cold.status)
    assert problem.solve(3, data, warm=primal_only).status == cold.status
    broken = Solution(cold.primal * float("nan"), cold.status)
    assert same_sample(problem.solve(3, data, warm=broken), cold)


def test_a_wrong_warm_start_does_no_harm():
    data, other = random_qp(4, **SIZES, batch=3), random_qp(5, **SIZES, batch=3)
    problem = opened(data)
    cold = problem.solve(3, data)
    warm = problem.solve(3, data, warm=problem.solve(3, other))
    assert warm.status == cold.status
    assert float((warm.primal - cold.primal).abs().max()) < 1e-9


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


@pytest.mark.parametrize("workers", [1, 2])
def test_constants_are_sent_after_a_first_call_of_nothing_but_nan(workers):
    data = random_qp(5, **SIZES)
    problem = opened_on(declare(data, ["q"]), workers=workers)
    q = data["q"].repeat(2, 1)
    with joblib.parallel_config(backend="threading"):
        refused = problem.solve(2, {"q": q * float("nan")})
        solution = problem.solve(2, {"q": q})
    assert refused.status == (Status.NUMERICAL,) * 2
    assert "q" in refused.messages[0]
    assert solution.status == (Status.OPTIMAL,) * 2
    assert float(problem.residual(2, {"q": q}, solution).max()) < 1e-12


def test_an_exception_of_daqp_is_that_samples_own(monkeypatch):
    data = random_qp(5, **SIZES, batch=4)
    reference = opened(data).solve(4, data)
    senses, calls = Buffers.senses, []

    def fails_once(self, start):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("planted")
        return senses(self, start)

    monkeypatch.setattr(Buffers, "senses", fails_once)
    solution = opened(data).solve(4, data)
    assert solution.status[1] is Status.NUMERICAL
    assert "planted" in solution.messages[1]
    assert all(same_sample(solution, reference, i, i) for i in (0, 2, 3))


@pytest.mark.parametrize("varying", [FIELDS, ("q",)])
def test_nan_under_a_good_status_is_numerical(varying, monkeypatch):
    # DAQP itself returns NaN with exit flag 1 for a NaN in f; here its answer is broken instead.
    data = random_qp(5, **SIZES)
    duals = Buffers.duals
    monkeypatch.setattr(Buffers, "duals", lambda self, lam: duals(self, lam * float("nan")))
    values = {name: torch.stack([data[name]] * 2) for name in varying}
    solution = opened_on(declare(data, varying)).solve(2, values)
    assert set(solution.status) == {Status.NUMERICAL}
    assert "NaN" in solution.messages[0]


@pytest.mark.parametrize("eq_reduction", ["auto", "off"])
@pytest.mark.parametrize("bounds", [True, False])
def test_rows_are_the_answers_of_single_samples(bounds, eq_reduction, monkeypatch):
    data = random_qp(3, 30, 4, 20, bounds=bounds)
    noise = torch.randn(12, 30, generator=torch.Generator().manual_seed(0)).double()
    problem, values = declare(data, ["q"]), {"q": data["q"] + noise}
    iterations = sorted(opened_on(problem, eq_reduction=eq_reduction).solve(12, values).iterations)
    options = {"eq_reduction": eq_reduction, "max_iter": iterations[6]}
    together = opened_on(problem, **options).solve(12, values)
    monkeypatch.setattr(DAQPModel, "solve_rows", lambda *_: None)
    alone = opened_on(problem, **options).solve(12, values)
    assert together.status == alone.status
    assert set(alone.status) == {Status.OPTIMAL, Status.ITERATION_LIMIT}
    assert together.messages == alone.messages
    assert together.iterations == alone.iterations
    assert torch.equal(together.primal.nan_to_num(7.0), alone.primal.nan_to_num(7.0))
    for name, rows in vars(together.duals).items():
        assert torch.equal(rows.nan_to_num(7.0), getattr(alone.duals, name).nan_to_num(7.0))


@pytest.mark.parametrize("trouble", ["setup", "update", "solve"])
def test_trouble_in_rows_is_left_to_single_samples(trouble, monkeypatch):
    data = random_qp(3, **SIZES)
    problem = declare(data, ["q"])
    values = {"q": data["q"] * torch.linspace(0.8, 1.2, 6).double()[:, None]}
    expected, calls = opened_on(problem).solve(6, values), []

    class Failing(daqp.Model):
        def solve(self):
            calls.append(1)
            if trouble == "solve" and len(calls) == 4:
                raise RuntimeError("planted")
            return super().solve()

        def update(self, **data):
            calls.append(1)
            if trouble == "update" and len(calls) == 4:
                return -5
            return super().update(**data)

        def setup(self, *data):
            calls.append(1)
            return (-5, 0.0) if trouble == "setup" and len(calls) == 1 else super().setup(*data)

    monkeypatch.setattr(daqp, "Model", Failing)
    found = opened_on(problem).solve(6, values)
    assert found.status == expected.status
    assert torch.equal(found.primal, expected.primal)


@pytest.mark.parametrize("P", [None, torch.diag(torch.tensor([0.0, 1.0])).double()])
def test_an_unbounded_program_is_named(P):
    q = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    solution = opened_on(QuadraticProgram(P=P, q=Param(2), lower=0.0)).solve(1, {"q": q})
    assert solution.status == (Status.UNBOUNDED,)
    assert "unbounded" in solution.messages[0]


def test_contradicting_equalities_are_infeasible_and_repeated_ones_are_not():
    A = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    problem = QuadraticProgram(P=eye, q=torch.zeros(2).double(), A=A, b=Param(2))
    b = torch.tensor([[1.0, 2.0], [1.0, 3.0]], dtype=torch.float64)
    solution = opened_on(problem).solve(2, {"b": b})
    assert solution.status == (Status.OPTIMAL, Status.INFEASIBLE)
    torch.testing.assert_close(solution.primal[0], torch.full((2,), 0.5).double())


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
    assert float(problem.residual(1, values, solution)) < 1e-12
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
    assert float(problem.residual(3, data, solution).max()) < 1e-12
    assert bool(((solution.primal[:, 4] - 0.3).abs() < 1e-12).all())


def test_sparse_data_give_the_solution_of_dense_data():
    data = random_qp(9, 12, 3, 5, batch=3)
    reference = opened(data).solve(3, data)
    values, fields = dict(data), {k: Param(*v.shape[1:]) for k, v in data.items()}
    for name in ("P", "A", "G"):
        rows, cols = data[name].abs().sum(0).nonzero().T
        fields[name] = Sparse(rows, cols, data[name].shape[1:], Param(rows.numel(), name=name))
        values[name] = data[name][:, rows, cols]
    problem = QuadraticProgram(**fields)
    solution = opened_on(problem).solve(3, values)
    assert all(same_sample(solution, reference, i, i) for i in range(3))
    assert DAQPSolver.rank(problem.structure) < DAQPSolver.rank(
        declare(data, data.keys()).structure
    )


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


@pytest.mark.parametrize("kind", ["definite", "singular"])
def test_inputs_are_not_touched_nor_kept(kind):
    data = singular(8, 3) if kind == "singular" else random_qp(8, **SIZES, batch=3)
    before = {k: v.clone() for k, v in data.items()}
    problem = opened(data)
    first = problem.solve(3, data)
    kept = first.primal.clone()
    assert all(torch.equal(data[k], before[k]) for k in data)
    for value in data.values():
        value.zero_()
    again = problem.solve(3, before)
    assert same_sample(first, again)
    assert torch.equal(first.primal, kept)


def test_small_programs_work():
    one_by_one, two = torch.ones(1, 1, dtype=torch.float64), torch.tensor([2.0]).double()
    free = QuadraticProgram(P=one_by_one, q=Param(1))
    assert float(opened_on(free).solve(1, {"q": two}).primal) == pytest.approx(-2, abs=1e-14)
    bounded = QuadraticProgram(P=one_by_one, q=Param(1), lower=-1.0)
    assert float(opened_on(bounded).solve(1, {"q": two}).primal) == pytest.approx(-1, abs=1e-14)


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
    layer = foldcore.build({"problem": declare(data, ["q"]), "solver": {"kind": "daqp"}, **folding})
    q = data["q"].requires_grad_()
    x = layer(q=q)
    copy = pickle.loads(pickle.dumps(layer))
    assert torch.equal(copy(q=q), x)


def test_gradients_agree_with_differences(folding):
    data = random_qp(9, 12, 3, 5)
    layer = foldcore.build({"problem": declare(data, ["q", "h"]), "solver": "daqp", **folding})
    inputs = (data["q"].requires_grad_(), data["h"].requires_grad_())
    assert torch.autograd.gradcheck(lambda q, h: layer(q=q, h=h), inputs, eps=1e-6, atol=1e-8)


OPTION_DATA = random_qp(15, 60, 10, 40, batch=4)


def test_tolerances_decide_which_violations_count():
    data = random_qp(15, **SIZES, batch=4)

    def violation(**options: float) -> float:
        solution = opened(data, **options).solve(4, data)
        excess = (data["G"] @ solution.primal.unsqueeze(-1)).squeeze(-1) - data["h"]
        bounds = torch.cat([solution.primal - data["upper"], data["lower"] - solution.primal], -1)
        return float(torch.cat([excess, bounds], -1).max())

    assert violation() < 1e-10
    assert violation(atol=1e-3, rtol=0) <= 1e-3


def test_tolerances_reach_daqp(monkeypatch):
    data = random_qp(15, **SIZES)
    sent = []

    native = daqp.Model

    class Noting(native):
        @property
        def settings(self):
            return super().settings

        @settings.setter
        def settings(self, values):
            sent.append(values)
            native.settings.__set__(self, values)

    monkeypatch.setattr(daqp, "Model", Noting)
    opened(data, atol=0.3, rtol=0).solve(1, data)
    assert sent[-1]["primal_tol"] == 0.3


def test_tolerances_bound_the_stationarity_of_singular_problems():
    data = singular(3, 10)
    loose, tight = opened(data, atol=1e-2, rtol=0), opened(data)
    assert sum(loose.solve(10, data).iterations) <= sum(tight.solve(10, data).iterations)
    assert float(loose.residual(10, data, loose.solve(10, data)).max()) < 0.1
    assert float(tight.residual(10, data, tight.solve(10, data)).max()) < 1e-6


@pytest.mark.parametrize("kind", ["definite", "singular"])
def test_max_iter_has_an_effect(kind):
    data = singular(15, 4) if kind == "singular" else OPTION_DATA
    solution = opened(data, max_iter=1).solve(4, data)
    assert set(solution.status) == {Status.ITERATION_LIMIT}
    assert "iteration limit" in solution.messages[0]


def test_time_limit_has_an_effect():
    solution = opened(OPTION_DATA, time_limit=1e-9).solve(4, OPTION_DATA)
    assert set(solution.status) == {Status.TIME_LIMIT}
    assert opened(OPTION_DATA, time_limit=100.0).solve(4, OPTION_DATA).failed == ()


def test_eq_reduction_reaches_daqp(monkeypatch):
    seen = []

    class Recorded(daqp.Model):
        def setup(self, *arguments):
            seen.append(self.settings["eq_reduction"])
            return super().setup(*arguments)

    monkeypatch.setattr(daqp, "Model", Recorded)
    data = random_qp(9, 12, 3, 5)
    for option in ("auto", "on", "off"):
        opened_on(declare(data, ["q"]), eq_reduction=option).solve(1, {"q": data["q"]})
        opened(data, eq_reduction=option).solve(1, data)
    assert seen == [1, 0, 1, 1, -1, -1]


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="both 0"):
        DAQPConfig(rtol=0, atol=0)
    with pytest.raises(ValueError, match="extra"):
        DAQPConfig(primal_tol=1e-3)
    for field in DAQPConfig.model_fields.values():
        assert "(" in field.description or "unit" in field.description


def test_the_plugin_declares_itself():
    (entry,) = entry_points(group="foldcore.solvers", name="daqp")
    assert entry.load() is DAQPSolver
    assert DAQPSolver.unusable_reason() is None
    structure = declare(random_qp(0, 3), ["q"]).structure
    assert structure.problem_class is ProblemClass.QP
    assert DAQPSolver.rank(structure) == 25
    assert DAQPSolver.rank(declare(random_qp(0, 201), ["q"]).structure) == 1
    flat = dict(random_qp(0, 3), P=torch.zeros(3, 3, dtype=torch.float64))
    assert DAQPSolver.rank(declare(flat, ["q"]).structure) == 9
    DAQPSolver(DAQPConfig()).open(structure).close()
