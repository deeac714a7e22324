"""The PIQP plugin: accuracy and signs, statuses, independence of history, data forms, options."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import joblib
import piqp
import pytest
import scipy.optimize
import torch
from foldcore_piqp import PIQPConfig, PIQPSolver
from foldcore_piqp.model import PIQPModel
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
    return Opened(PIQPSolver(PIQPConfig(**options)), problem)


def opened(data: Mapping[str, Tensor], **options: object) -> Opened:
    return opened_on(declare(data, data.keys()), **options)


def one(data: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    return {name: value[sample : sample + 1] for name, value in data.items()}


@pytest.mark.parametrize("backend", ["dense", "sparse"])
@pytest.mark.parametrize("decades", [0.0, 2.0, 4.0])
def test_random_qps_satisfy_kkt_with_signed_duals(decades, backend):
    data = random_qp(1, **SIZES, batch=20, decades=decades)
    problem = opened(data, backend=backend)
    solution = problem.solve(20, data)
    assert set(solution.status) == {Status.OPTIMAL}
    program = problem.bind(20, data)
    report = kkt_report(program, solution.primal, solution.duals)[0]
    assert float(report.stationarity.max()) < 1e-10
    assert float(report.primal.max()) < 1e-10
    assert float(report.residual.max()) < 1e-6  # complementarity of nearly inactive rows
    duals = solution.duals
    for part in (duals.inequality, duals.lower, duals.upper):
        assert bool((part >= 0).all())
    active = (duals.inequality > 1e-6).sum(-1) + (duals.lower + duals.upper > 1e-6).sum(-1)
    assert float(active.double().mean()) > 5


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
    assert float(pinned.lower - pinned.upper) == pytest.approx(1.25, abs=1e-9)


def test_random_lps_agree_with_scipy():
    data = random_qp(2, **SIZES, batch=10)
    del data["P"]
    problem = opened(data)
    solution = problem.solve(10, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(10, data, solution).max()) < 1e-8
    for i in range(10):
        bounds = torch.stack([data["lower"][i], data["upper"][i]], -1).tolist()
        names = ("q", "G", "h", "A", "b")
        reference = scipy.optimize.linprog(*(data[name][i] for name in names), bounds=bounds)
        value = float(data["q"][i] @ solution.primal[i])
        assert value == pytest.approx(reference.fun, rel=1e-9)


@pytest.mark.parametrize("backend", ["dense", "sparse"])
@pytest.mark.parametrize("varying", [("q",), ("q", "b", "h", "lower", "upper"), ("P",), FIELDS])
def test_results_do_not_depend_on_earlier_calls(varying, backend):
    single, many = random_qp(3, **SIZES), random_qp(3, **SIZES, batch=6)
    values = {name: many[name] for name in varying}
    if varying != FIELDS:  # other matrices and limits would make most samples infeasible
        spread = 1 + 0.02 * torch.arange(6, dtype=torch.float64)
        values = {k: single[k] * spread.reshape(-1, *[1] * single[k].ndim) for k in varying}
    if "h" in varying:
        values["h"][1::2, 3] = INF  # another set of rows
        values["upper"][2, 4] = values["lower"][2, 4]
    problem = declare(single, varying)
    session = opened_on(problem, backend=backend)
    together = session.solve(6, values)
    backwards = session.solve(6, {k: v.flip(0) for k, v in values.items()})
    for i in range(6):
        alone = opened_on(problem, backend=backend).solve(1, one(values, i))
        assert same_sample(alone, together, 0, i)
        assert same_sample(alone, backwards, 0, 5 - i)
    assert sum(status.ok for status in together.status) >= 4


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_without_scaling_samples_are_updates_of_one_set_up(backend, monkeypatch):
    name = "DenseSolver" if backend == "dense" else "SparseSolver"
    calls = []

    class Counted(getattr(piqp, name)):
        def setup(self, *data):
            calls.append("setup")
            super().setup(*data)

        def update(self, **data):
            calls.append("update")
            super().update(**data)

    monkeypatch.setattr(piqp, name, Counted)
    data = random_qp(3, **SIZES)
    problem = declare(data, ["q", "h"])
    values = {"q": data["q"] * torch.linspace(0.8, 1.2, 6).double()[:, None]}
    session = opened_on(problem, backend=backend, scaling=0)
    together = session.solve(6, {**values, "h": data["h"]})
    assert calls == ["setup"] + ["update"] * 5
    backwards = session.solve(6, {"q": values["q"].flip(0), "h": data["h"]})
    for i in range(6):
        fresh = opened_on(problem, backend=backend, scaling=0)
        alone = fresh.solve(1, {"q": values["q"][i], "h": data["h"]})
        assert same_sample(alone, together, 0, i)
        assert same_sample(alone, backwards, 0, 5 - i)
    calls.clear()
    spread = torch.linspace(1.0, 1.1, 6).double()[:, None]
    session.solve(6, {**values, "h": data["h"] * spread})
    assert calls == ["setup"] * 6
    calls.clear()
    opened_on(problem, backend=backend).solve(6, {**values, "h": data["h"]})
    assert calls == ["setup"] * 6


def test_a_model_with_memory_would_be_noticed(monkeypatch):
    data = random_qp(3, **SIZES)
    values = {"q": data["q"] * torch.linspace(0.8, 1.2, 6).double()[:, None]}
    problem = declare(data, ["q"])
    fresh = [opened_on(problem).solve(1, one(values, i)) for i in range(6)]

    class Updated(piqp.DenseSolver):
        ready = False

        def setup(self, P, q, *rest):
            if self.ready:
                self.update(c=q)
            else:
                super().setup(P, q, *rest)
            self.ready = True

    monkeypatch.setattr(piqp, "DenseSolver", Updated)
    together = opened_on(problem).solve(6, values)
    assert not all(same_sample(fresh[i], together, 0, i) for i in range(6))


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


def test_an_exception_of_piqp_is_that_samples_own(monkeypatch):
    data = random_qp(5, **SIZES, batch=4)
    reference = opened(data).solve(4, data)
    calls = []

    class Failing(piqp.DenseSolver):
        def setup(self, *arguments):
            calls.append(1)
            if len(calls) == 2:
                raise ValueError("planted")
            super().setup(*arguments)

    monkeypatch.setattr(piqp, "DenseSolver", Failing)
    solution = opened(data).solve(4, data)
    assert solution.status[1] is Status.NUMERICAL
    assert "planted" in solution.messages[1]
    assert all(same_sample(solution, reference, i, i) for i in (0, 2, 3))


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_an_unbounded_program_is_named(backend):
    q = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    problem = QuadraticProgram(q=Param(2), lower=0.0)
    solution = opened_on(problem, backend=backend).solve(1, {"q": q})
    assert solution.status == (Status.UNBOUNDED,)
    assert solution.messages == ("PIQP_DUAL_INFEASIBLE",)


def test_an_infeasible_program_is_named():
    data = random_qp(5, **SIZES)
    data["h"][2] = -1000.0
    solution = opened(data).solve(1, data)
    assert solution.status == (Status.INFEASIBLE,)
    assert solution.messages == ("PIQP_PRIMAL_INFEASIBLE",)


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
    torch.testing.assert_close(solution.primal, without.primal, rtol=0, atol=1e-9)


def test_equal_bounds_fix_a_variable():
    data = random_qp(7, **SIZES, batch=3)
    data["lower"][:, 4] = data["upper"][:, 4] = 0.3
    problem = opened(data)
    solution = problem.solve(3, data)
    assert float(problem.residual(3, data, solution).max()) < 1e-6
    assert bool(((solution.primal[:, 4] - 0.3).abs() < 1e-10).all())


def test_sparse_data_give_the_solution_of_dense_data():
    data = random_qp(9, 12, 3, 5, batch=3)
    reference = opened(data).solve(3, data)
    values, fields = dict(data), {k: Param(*v.shape[1:]) for k, v in data.items()}
    for name in ("P", "A", "G"):
        rows, cols = data[name].abs().sum(0).nonzero().T
        fields[name] = Sparse(rows, cols, data[name].shape[1:], Param(rows.numel(), name=name))
        values[name] = data[name][:, rows, cols]
    solution = opened_on(QuadraticProgram(**fields)).solve(3, values)
    torch.testing.assert_close(solution.primal, reference.primal, rtol=0, atol=1e-8)


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
    data = random_qp(8, **SIZES, batch=3)
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
    layer = foldcore.build({"problem": declare(data, ["q"]), "solver": {"kind": "piqp"}, **folding})
    q = data["q"].requires_grad_()
    x = layer(q=q)
    copy = pickle.loads(pickle.dumps(layer))
    assert torch.equal(copy(q=q), x)


def test_gradients_agree_with_differences(folding):
    data = random_qp(9, 12, 3, 5)
    layer = foldcore.build({"problem": declare(data, ["q", "h"]), "solver": "piqp", **folding})
    inputs = (data["q"].requires_grad_(), data["h"].requires_grad_())
    assert torch.autograd.gradcheck(lambda q, h: layer(q=q, h=h), inputs, eps=1e-6, atol=1e-6)


OPTION_DATA = random_qp(15, **SIZES, batch=4, decades=2)


def iterations(**options: object) -> int:
    return sum(opened(OPTION_DATA, **options).solve(4, OPTION_DATA).iterations)


def test_tolerances_have_an_effect():
    tight = iterations()
    assert iterations(rtol=1e-3) < tight
    assert iterations(atol=1e-3) < tight


def test_max_iter_has_an_effect():
    solution = opened(OPTION_DATA, max_iter=1).solve(4, OPTION_DATA)
    assert set(solution.status) == {Status.ITERATION_LIMIT}
    assert solution.messages[0] == "PIQP_MAX_ITER_REACHED"


def test_backend_has_an_effect(monkeypatch):
    seen = []
    for name in ("DenseSolver", "SparseSolver"):
        built = getattr(piqp, name)
        monkeypatch.setattr(piqp, name, lambda n=name, b=built: seen.append(n) or b())
    data = random_qp(9, 12, 3, 5)
    index = torch.arange(12)
    sparse = declare(data, ["q"])
    sparse = QuadraticProgram(
        P=Sparse(index, index, (12, 12), torch.ones(12).double()), q=Param(12), lower=0.0
    )
    for problem in (declare(data, ["q"]), sparse):
        for backend in ("auto", "dense", "sparse"):
            solution = opened_on(problem, backend=backend).solve(1, {"q": data["q"]})
            assert solution.status == (Status.OPTIMAL,)
    dense, other = "DenseSolver", "SparseSolver"
    assert seen == [dense, dense, other, other, dense, other]


def test_scaling_has_an_effect():
    solutions = [opened(OPTION_DATA, scaling=k).solve(4, OPTION_DATA) for k in (10, 0)]
    assert not torch.equal(solutions[0].primal, solutions[1].primal)


def test_verbose_has_an_effect(capfd):
    opened(OPTION_DATA).solve(4, OPTION_DATA)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    opened(OPTION_DATA, verbose=True).solve(4, OPTION_DATA)
    assert "PIQP" in capfd.readouterr().out


def test_nothing_is_printed_about_infinite_limits(capfd):
    data = random_qp(6, **SIZES)
    data["h"][::2] = INF
    data["lower"][::3] = -INF
    opened(data).solve(1, data)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="both 0"):
        PIQPConfig(rtol=0, atol=0)
    with pytest.raises(ValueError, match="extra"):
        PIQPConfig(eps_abs=1e-3)
    for field in PIQPConfig.model_fields.values():
        assert "(" in field.description or "unit" in field.description


def test_the_plugin_declares_itself():
    (entry,) = entry_points(group="foldcore.solvers", name="piqp")
    assert entry.load() is PIQPSolver
    assert PIQPSolver.unusable_reason() is None
    structure = declare(random_qp(0, 3), ["q"]).structure
    assert structure.problem_class is ProblemClass.QP
    assert PIQPSolver.rank(structure) == 7
    assert isinstance(PIQPSolver(PIQPConfig()).model(structure, single_thread=True), PIQPModel)
