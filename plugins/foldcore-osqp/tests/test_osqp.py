"""The OSQP plugin: accuracy and signs, statuses, independence of history, data forms."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

import joblib
import osqp
import pytest
import scipy.optimize
import torch
from foldcore_osqp import OSQPConfig, OSQPSolver
from foldcore_osqp.model import NativeModel
from torch import Tensor

from foldcore import (
    Param,
    ProblemClass,
    QuadraticProgram,
    Solution,
    Sparse,
    Status,
    kkt_report,
)
from foldcore.testing.opened import Opened, same_sample
from foldcore.testing.problems import declare, random_qp

INF = float("inf")
SIZES = {"n": 30, "n_equality": 10, "n_inequality": 15}


def opened_on(problem: QuadraticProgram, **options: object) -> Opened:
    return Opened(OSQPSolver(OSQPConfig(**options)), problem)


def opened(data: Mapping[str, Tensor], **options: object) -> Opened:
    return opened_on(declare(data, data.keys()), **options)


def one(data: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    return {name: value[sample : sample + 1] for name, value in data.items()}


@pytest.mark.parametrize("decades", [0.0, 2.0, 4.0])
def test_random_qps_satisfy_kkt_with_signed_duals(decades):
    data = random_qp(1, **SIZES, batch=20, decades=decades)
    problem = opened(data)
    solution = problem.solve(20, data)
    assert set(solution.status) == {Status.OPTIMAL}
    assert float(problem.residual(20, data, solution).max()) < 1e-11
    duals = solution.duals
    for part in (duals.inequality, duals.lower, duals.upper):
        assert bool((part >= 0).all())
    active = (duals.inequality > 1e-6).sum(-1) + (duals.lower + duals.upper > 1e-6).sum(-1)
    assert float(active.double().mean()) > 5


def test_signs_of_duals_in_closed_form():
    # min ½x² + qx: slope x + q must be balanced by the one constraint that binds.
    one_by_one = torch.ones(1, 1, dtype=torch.float64)
    base = {"P": one_by_one, "q": Param(1)}

    def solve(q: float, **constraint: Tensor) -> Solution:
        values = {"q": torch.tensor([q], dtype=torch.float64)}
        return opened_on(QuadraticProgram(**base, **constraint)).solve(1, values)

    limit = torch.tensor([0.25], dtype=torch.float64)
    assert float(solve(-1.0, upper=limit).duals.upper) == pytest.approx(0.75, abs=1e-12)
    assert float(solve(1.0, lower=limit).duals.lower) == pytest.approx(1.25, abs=1e-12)
    assert float(solve(-1.0, G=one_by_one, h=limit).duals.inequality) == pytest.approx(0.75)
    assert float(solve(-1.0, A=one_by_one, b=limit).duals.equality) == pytest.approx(0.75)
    assert float(solve(1.0, A=one_by_one, b=limit).duals.equality) == pytest.approx(-1.25)


def test_projection_onto_simplex_in_closed_form():
    n, generator = 7, torch.Generator().manual_seed(0)
    point = torch.randn(5, n, generator=generator, dtype=torch.float64)
    ones = torch.ones(1, n, dtype=torch.float64)
    problem = QuadraticProgram(
        P=torch.eye(n, dtype=torch.float64), q=Param(n), A=ones, b=ones[:, 0], lower=0.0
    )
    ordered = point.sort(descending=True).values
    shift = (ordered.cumsum(-1) - 1) / torch.arange(1, n + 1)
    support = (ordered > shift).sum(-1, keepdim=True)
    expected = (point - shift.gather(1, support - 1)).clamp(min=0)
    solution = opened_on(problem).solve(5, {"q": -point})
    torch.testing.assert_close(solution.primal, expected, rtol=0, atol=1e-12)


def test_random_lps_agree_with_scipy():
    data = random_qp(2, **SIZES, batch=20)
    del data["P"]
    solution = opened(data).solve(20, data)
    assert set(solution.status) == {Status.OPTIMAL}
    for i in range(20):
        bounds = torch.stack([data["lower"][i], data["upper"][i]], -1).tolist()
        names = ("q", "G", "h", "A", "b")
        reference = scipy.optimize.linprog(*(data[name][i] for name in names), bounds=bounds)
        value = float(data["q"][i] @ solution.primal[i])
        assert value == pytest.approx(reference.fun, rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [{}, {"polishing": False}, {"polishing": False, "adaptive_rho": False}, {"scaling": 0}],
    ids=str,
)
@pytest.mark.parametrize("varying", ["q", "vectors", "all"])
def test_results_do_not_depend_on_history(varying, options):
    names = {"q": ["q"], "vectors": ["q", "b", "h", "lower", "upper"]}.get(
        varying, [*random_qp(0, 2, 1, 1)]
    )
    single, many = random_qp(3, **SIZES, decades=1), random_qp(3, **SIZES, batch=6, decades=1)
    values = {k: many[k] if varying == "all" else _spread(single[k], k) for k in names}
    problem = declare({**single, **values}, names)
    together = opened_on(problem, **options).solve(6, values)
    backwards = opened_on(problem, **options)
    for i in reversed(range(6)):
        fresh = opened_on(problem, **options).solve(1, one(values, i))
        assert same_sample(fresh, together, 0, i)
        assert same_sample(fresh, backwards.solve(1, one(values, i)))


def _spread(value: Tensor, name: str) -> Tensor:
    """Six samples that differ and stay feasible."""
    steps = torch.arange(6, dtype=torch.float64).unsqueeze(-1)
    if name == "q":
        return value * (1 + steps)
    return value + 0.01 * steps * {"b": 0, "h": 1, "lower": -1, "upper": 1}[name]


@pytest.mark.parametrize("fault", ["rho", "scaling"])
def test_a_model_with_memory_would_be_noticed(fault, monkeypatch):
    data = random_qp(3, **SIZES, batch=6)
    load = NativeModel._load

    def forgetful(self, sample, *, resend):
        if fault == "rho":
            self._rho_moved = False
            load(self, sample, resend=resend)
        else:
            load(self, sample, resend=resend and self._native is None)
            self._native.update(Px=sample.P, Ax=sample.C)

    fresh = [opened(data, polishing=False).solve(1, one(data, i)) for i in range(6)]
    monkeypatch.setattr(NativeModel, "_load", forgetful)
    together = opened(data, polishing=False).solve(6, data)
    assert not all(same_sample(fresh[i], together, 0, i) for i in range(6))


def test_a_warm_start_is_used_and_leaves_no_trace():
    data = random_qp(4, **SIZES, batch=3)
    problem = opened(data, polishing=False)
    cold = problem.solve(3, data)
    warm = problem.solve(3, data, warm=cold)
    assert max(warm.iterations) < min(cold.iterations)
    assert float((warm.primal - cold.primal).abs().max()) < 1e-7
    assert same_sample(problem.solve(3, data), cold)
    primal_only = Solution(cold.primal, cold.status)
    assert problem.solve(3, data, warm=primal_only).status == cold.status
    broken = Solution(cold.primal * float("nan"), cold.status)
    assert same_sample(problem.solve(3, data, warm=broken), cold)


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


def test_an_exception_of_osqp_is_that_samples_own(monkeypatch):
    data = random_qp(5, **SIZES, batch=4)
    reference = opened(data).solve(4, data)
    warm_start, calls = osqp.OSQP.warm_start, []

    def fails_once(self, x=None, y=None):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("planted")
        return warm_start(self, x=x, y=y)

    monkeypatch.setattr(osqp.OSQP, "warm_start", fails_once)
    solution = opened(data).solve(4, data)
    assert solution.status[1] is Status.NUMERICAL
    assert "planted" in solution.messages[1]
    assert all(same_sample(solution, reference, i, i) for i in (0, 2, 3))


def test_an_unbounded_program_is_named():
    q = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    solution = opened_on(QuadraticProgram(q=Param(2), lower=0.0)).solve(1, {"q": q})
    assert solution.status == (Status.UNBOUNDED,)
    assert "dual infeasible" in solution.messages[0]


@pytest.mark.parametrize("batched", [True, False])
def test_an_indefinite_sparse_hessian_is_named_even_within_bounds(batched):
    # Within bounds OSQP alone would return a saddle point as solved.
    index = torch.arange(3)
    problem = QuadraticProgram(
        P=Sparse(index, index, (3, 3), Param(3, name="P")),
        q=torch.ones(3, dtype=torch.float64),
        lower=-1.0,
        upper=1.0,
    )
    values = torch.tensor([1.0, -1e-3, 1.0], dtype=torch.float64)
    good = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    if batched:
        solution = opened_on(problem).solve(2, {"P": torch.stack([values, good])})
        assert solution.status == (Status.NONCONVEX, Status.OPTIMAL)
    else:
        assert opened_on(problem).solve(2, {"P": values}).status == (Status.NONCONVEX,) * 2
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
    reduced = dict(data, G=data["G"][1::2], h=data["h"][1::2])
    without = opened(reduced).solve(1, reduced)
    torch.testing.assert_close(solution.primal, without.primal, rtol=0, atol=1e-11)


def test_equal_bounds_fix_a_variable():
    data = random_qp(7, **SIZES, batch=3)
    data["lower"][:, 4] = data["upper"][:, 4] = 0.3
    problem = opened(data)
    solution = problem.solve(3, data)
    assert float(problem.residual(3, data, solution).max()) < 1e-11
    assert bool(((solution.primal[:, 4] - 0.3).abs() < 1e-12).all())


def test_a_zero_of_the_first_call_may_become_a_number():
    data = random_qp(8, **SIZES, batch=2)
    data["A"][0] *= torch.rand(10, 30, generator=torch.Generator().manual_seed(0)) < 0.7
    data["b"][0] = data["A"][0].sum(-1) * 0.5
    data["P"][0] = torch.diag(data["P"][0].diagonal())
    problem = opened(data)
    solution = problem.solve(2, data)
    assert float(problem.residual(2, data, solution).max()) < 1e-11
    assert same_sample(opened(data).solve(1, one(data, 1)), solution, 0, 1)


def sparse_of(dense: Tensor, name: str) -> tuple[Sparse, Tensor]:
    """Declare a matrix by its entries, the first one split in two that add up."""
    rows, cols = dense.abs().sum(0).nonzero().T if dense.ndim == 3 else dense.nonzero().T
    values = dense[..., rows, cols]
    rows, cols = torch.cat([rows, rows[:1]]), torch.cat([cols, cols[:1]])
    half = values[..., :1] / 2
    values = torch.cat([half, values[..., 1:], half], -1)
    shape = (dense.shape[-2], dense.shape[-1])
    return Sparse(rows, cols, shape, Param(rows.numel(), name=name)), values


def test_sparse_data_give_the_solution_of_dense_data():
    data = random_qp(9, 12, 3, 5, batch=3)
    data["G"] = data["G"] * (data["G"].abs() > 0.2)
    reference = opened(data).solve(3, data)
    values, fields = dict(data), {k: Param(*v.shape[1:]) for k, v in data.items()}
    for name in ("P", "A", "G"):
        fields[name], values[name] = sparse_of(data[name], name)
    solution = opened_on(QuadraticProgram(**fields)).solve(3, values)
    assert solution.status == (Status.OPTIMAL,) * 3
    torch.testing.assert_close(solution.primal, reference.primal, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        solution.duals.inequality, reference.duals.inequality, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("batched", [("q",), ("P",), ("A", "h"), ("lower", "G"), ("b", "upper")])
def test_shared_and_batched_data_mix(batched):
    single, many = random_qp(10, 12, 3, 5), random_qp(10, 12, 3, 5, batch=4)
    factor = 1 + 0.1 * torch.arange(4, dtype=torch.float64)
    mixed = {
        k: v * factor.reshape(-1, *[1] * v.ndim) if k in batched and k != "lower" else v
        for k, v in single.items()
    }
    mixed["lower"] = single["lower"] - (factor[:, None] if "lower" in batched else 0)
    expanded = {k: v.expand(4, *v.shape) if v.ndim < many[k].ndim else v for k, v in mixed.items()}
    left, right = opened(single).solve(4, mixed), opened(single).solve(4, expanded)
    assert set(left.status) == {Status.OPTIMAL}
    assert all(same_sample(left, right, i, i) for i in range(4))


def test_a_constant_that_changes_after_all_is_taken_up():
    data = random_qp(11, 12, 3, 5)
    problem = opened_on(declare(data, ["q"]))
    problem.solve(1, {"q": data["q"]})
    other = random_qp(12, 12, 3, 5)
    values = {**problem.problem.constants, **other}
    program = problem.problem.bind(values, 1)
    solution = problem.session.solve(program, changed=frozenset(other))
    assert float(kkt_report(program, solution.primal, solution.duals)[0].residual) < 1e-11


def test_dtype_is_kept_and_numbers_are_solved_in_double_precision():
    data = random_qp(13, **SIZES, batch=2, dtype=torch.float32)
    solution = opened(data).solve(2, data)
    assert solution.primal.dtype == torch.float32
    assert solution.duals.upper.dtype == torch.float32
    double = {k: v.double() for k, v in data.items()}
    reference = opened(double).solve(2, double)
    assert torch.equal(solution.primal, reference.primal.float())


def test_small_programs_work():
    one_by_one, two = torch.ones(1, 1, dtype=torch.float64), torch.tensor([2.0]).double()
    free = QuadraticProgram(P=one_by_one, q=Param(1))
    assert float(opened_on(free).solve(1, {"q": two}).primal) == pytest.approx(-2, abs=1e-12)
    bounded = QuadraticProgram(P=one_by_one, q=Param(1), lower=-1.0)
    assert float(opened_on(bounded).solve(1, {"q": two}).primal) == pytest.approx(-1, abs=1e-12)


def test_a_polished_point_that_is_worse_is_not_taken():
    # The numbers of osqp issue 790: polishing moves x by 17% and reports success.
    P = [
        [4.1808645950911965, 0.44690128191460515, 1.8366797318100276, 1.790246466328951],
        [0.44690128191460515, 1.0017895414423332, 0.36306796713298567, -1.7084875079784945],
        [1.8366797318100276, 0.36306796713298567, 1.2136981891025493, 0.5144624591668353],
        [1.790246466328951, -1.7084875079784945, 0.5144624591668353, 5.390092402940427],
    ]
    q = [2.5229445413976057, -0.7641899948191101, 0.6813963386073322, -1.580571417946669]
    row = [6802.195057324533, 859169.6071018894, 1307081.4281253067, 881514.7112147971]
    G = torch.tensor([row, [-entry for entry in row]], dtype=torch.float64)
    data = {
        "P": torch.tensor(P, dtype=torch.float64),
        "q": torch.tensor(q, dtype=torch.float64),
        "G": G,
        "h": torch.tensor([724880.97957331, 490209.4743924113], dtype=torch.float64),
    }
    problem = opened(data)
    solution = problem.solve(1, data)
    active = [i for i in (0, 1) if float(solution.duals.inequality[0, i]) > 0]
    kkt = torch.zeros(5, 5, dtype=torch.float64)
    kkt[:4, :4], kkt[4, :4], kkt[:4, 4] = data["P"], G[active[0]], G[active[0]]
    right = torch.cat([-data["q"], data["h"][active]])
    exact = torch.linalg.solve(kkt, right)[:4]
    torch.testing.assert_close(solution.primal[0], exact, rtol=1e-6, atol=0)


def test_nothing_is_printed_without_verbose(capfd):
    # OSQP prints a line for every polished solution without active constraints.
    data = random_qp(14, 5, bounds=True)
    data["q"] = torch.zeros(5, dtype=torch.float64)
    data["lower"], data["upper"] = -data["upper"].abs(), data["upper"].abs()
    opened(data).solve(1, data)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.parametrize("varying", ["q", "all"])
def test_two_workers_give_bitwise_what_one_gives(varying, backend):
    data, expected = failing_data()
    if varying == "q":
        single = random_qp(5, **SIZES)
        values, expected = {"q": single["q"] * (1 + 0.1 * torch.arange(8).double())[:, None]}, {}
        problem = declare(single, ["q"])
    else:
        values, problem = data, declare(data, data.keys())
    reference = opened_on(problem).solve(8, values)
    with joblib.parallel_config(backend=backend):
        two = opened_on(problem, workers=2)
        for _ in range(2):  # the second time with the models that the workers kept
            solution = two.solve(8, values)
            assert solution.status == reference.status
            assert solution.messages == reference.messages
            assert all(
                same_sample(solution, reference, i, i) for i in range(8) if i not in expected
            )


def test_a_worker_keeps_its_model(monkeypatch):
    built = []
    setup = osqp.OSQP.setup
    monkeypatch.setattr(
        osqp.OSQP, "setup", lambda self, *a, **k: built.append(1) or setup(self, *a, **k)
    )
    data = random_qp(5, **SIZES)
    values = {"q": data["q"].expand(8, -1)}
    run = opened_on(declare(data, ["q"]), workers=2)
    with joblib.parallel_config(backend="sequential"):
        run.solve(8, values)
        first = len(built)
        run.solve(8, values)
    assert 0 < first == len(built)


def test_an_interrupted_session_builds_its_model_anew(monkeypatch):
    data = random_qp(5, **SIZES, batch=4)
    reference = opened(data).solve(4, data)
    problem, solve = opened(data), NativeModel.solve
    calls = []

    def interrupted(self, sample, *, resend):
        answer = solve(self, sample, resend=resend)
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(NativeModel, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        problem.solve(4, data)
    again = problem.solve(4, data)
    assert all(same_sample(again, reference, i, i) for i in range(4))
    assert calls[2] is not calls[1]


OPTION_DATA = random_qp(15, **SIZES, batch=4, decades=2)


def iterations(**options: object) -> int:
    return sum(opened(OPTION_DATA, **options).solve(4, OPTION_DATA).iterations)


def test_tolerances_have_an_effect():
    tight = iterations(polishing=False)
    assert iterations(polishing=False, rtol=1e-4) < tight
    assert iterations(polishing=False, atol=1e-4) < tight
    assert iterations(rtol=1e-4, atol=1e-4) <= iterations()


def test_max_iter_has_an_effect():
    solution = opened(OPTION_DATA, max_iter=7, polishing=False).solve(4, OPTION_DATA)
    assert set(solution.status) == {Status.ITERATION_LIMIT}
    assert solution.iterations == (7,) * 4
    total = opened(OPTION_DATA, max_iter=60).solve(4, OPTION_DATA)
    assert max(total.iterations) <= 60


def test_rho_adaptive_rho_and_polishing_reach_osqp(monkeypatch):
    setup, asked = osqp.OSQP.setup, []

    def noted(self, *args, **settings):
        asked.append(settings)
        return setup(self, *args, **settings)

    monkeypatch.setattr(osqp.OSQP, "setup", noted)
    options = {"rho": 3.0, "adaptive_rho": False, "polishing": False}
    opened(OPTION_DATA, **options).solve(4, OPTION_DATA)
    names = {**options, "adaptive_rho": 0}
    assert asked
    assert all(one[name] == value for one in asked for name, value in names.items())


def test_polishing_has_an_effect():
    rough, fine = (opened(OPTION_DATA, polishing=p, rtol=1e-5, atol=1e-5) for p in (False, True))
    worse = rough.residual(4, OPTION_DATA, rough.solve(4, OPTION_DATA))
    better = fine.residual(4, OPTION_DATA, fine.solve(4, OPTION_DATA))
    assert bool((better < 1e-11).all())
    assert bool((better <= worse).all())


def test_time_limit_has_an_effect():
    solution = opened(OPTION_DATA, time_limit=1e-9).solve(4, OPTION_DATA)
    assert set(solution.status) == {Status.TIME_LIMIT}
    assert opened(OPTION_DATA, time_limit=100.0).solve(4, OPTION_DATA).failed == ()


def test_scaling_has_an_effect():
    assert iterations(scaling=10) < iterations(scaling=0)


def test_verbose_has_an_effect(capfd):
    opened(OPTION_DATA, verbose=True).solve(4, OPTION_DATA)
    assert "OSQP" in capfd.readouterr().out


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="both 0"):
        OSQPConfig(rtol=0, atol=0)
    with pytest.raises(ValueError, match="extra"):
        OSQPConfig(eps=1e-3)
    with pytest.raises(ValueError, match="greater than 0"):
        OSQPConfig(rho=0)
    for field in OSQPConfig.model_fields.values():
        assert "(" in field.description or "unit" in field.description


def test_the_plugin_declares_itself():
    (entry,) = entry_points(group="foldcore.solvers", name="osqp")
    assert entry.load() is OSQPSolver
    assert OSQPSolver.unusable_reason() is None
    structure = declare(random_qp(0, 3), ["q"]).structure
    assert structure.problem_class is ProblemClass.QP
    assert OSQPSolver.rank(structure) == 20
    session = OSQPSolver(OSQPConfig()).open(structure)
    session.close()
