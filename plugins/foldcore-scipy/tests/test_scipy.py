"""The scipy plugin: accuracy and signs, statuses, options, independence of batch and workers."""

from __future__ import annotations

import pickle
from importlib.metadata import entry_points

import foldcore_scipy.session as session_module
import joblib
import pytest
import torch
from foldcore_scipy import ScipyConfig, ScipySolver
from torch import Tensor

import foldcore as fc
from foldcore import Param, Problem, ProblemClass, QuadraticProgram, Solution, Status
from foldcore.testing.problems import declare, random_qp

METHODS = pytest.mark.parametrize("method", ["slsqp", "trust-constr"])
INF = float("inf")
EYE = torch.eye(2, dtype=torch.float64)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def constrained() -> Problem:
    """Convex, with a curved and a linear inequality, an equality and bounds that all may bind."""
    return Problem(
        5,
        lambda x, c: torch.exp(x - c).sum() + (x**4).sum(),
        params={"c": Param(5)},
        inequality=lambda x: torch.stack([x @ x - 1.0, x[0] - x[1] - 0.1]),
        equality=lambda x: (x.sum() - 0.5).reshape(1),
        lower=-0.3,
        upper=0.6,
    )


def entropy() -> Problem:
    """Smooth top-k: undefined outside of its bounds, and not differentiable on the lower one."""
    return Problem(
        6,
        lambda x, c: -(c @ x) + (x * torch.log(x)).sum(),
        params={"c": Param(6)},
        constraints=[fc.CappedSimplex(2.0)],
    )


def two_wells() -> Problem:
    """Local optima near -1 and 1; the deeper one is on the side of -c."""
    return Problem(
        2,
        lambda x, c: ((x**2 - 1) ** 2).sum() + c @ x,
        params={"c": Param(2)},
        inequality=lambda x: (x @ x - 1.5).reshape(1),
        lower=-2.0,
        upper=3.0,
    )


def ellipse() -> Problem:
    """Not convex: a nonlinear equality."""
    return Problem(
        3,
        lambda x, c: (torch.cosh(x - c)).sum(),
        params={"c": Param(3)},
        equality=lambda x: (x[0] ** 2 + 2 * x[1] ** 2 + torch.sin(x[2]) - 2).reshape(1),
        lower=0.1,
    )


@pytest.fixture
def layers() -> None:
    """Skip tests of whole layers where the other plugins that they are built of are missing."""
    for name in ("newton", "gmres"):
        pytest.importorskip(f"foldcore_{name}", reason=f"layers are built with foldcore-{name}")


IN_LAYERS = pytest.mark.usefixtures("layers")


class Opened:
    """A problem with its session."""

    def __init__(self, problem: fc.ParametricProblem, **options: object) -> None:
        self.problem = problem
        self.session = ScipySolver(ScipyConfig(**options)).open(problem.lowered_structure)

    def bind(self, **values: Tensor) -> fc.SmoothProgram:
        batch = max(
            (v.shape[0] for n, v in values.items() if v.ndim > len(self.problem.params[n].shape)),
            default=1,
        )
        return self.problem.bind({**self.problem.constants, **values}, batch)

    def solve(self, warm: Solution | None = None, **values: Tensor) -> Solution:
        changed = frozenset(self.problem.structure.template.varying)
        return self.session.solve(self.bind(**values), changed=changed, warm_start=warm)

    def residual(self, solution: Solution, **values: Tensor) -> Tensor:
        program = self.bind(**values)
        return fc.kkt_report(program, solution.primal, solution.duals)[0].residual


def same(left: Solution, right: Solution, i: int, j: int) -> bool:
    return left.status[i] is right.status[j] and torch.equal(left.primal[i], right.primal[j])


@METHODS
@pytest.mark.parametrize(
    ("make", "n"), [(constrained, 5), (entropy, 6), (two_wells, 2), (ellipse, 3)]
)
def test_solutions_satisfy_kkt(method: str, make, n: int) -> None:
    problem, c = Opened(make(), method=method), 0.5 * normal(0, 3, n)
    solution = problem.solve(c=c)
    assert set(solution.status) == {Status.OPTIMAL}, solution.messages
    assert float(problem.residual(solution, c=c).max()) < 1e-5
    assert all(count > 0 for count in solution.iterations)
    assert all(message.startswith(method) for message in solution.messages)


@IN_LAYERS
@METHODS
def test_random_qps_agree_with_their_exact_solution(method: str) -> None:
    data = random_qp(1, 8, 2, 4)
    reference = fc.build({"problem": declare(data, ["q"]), "solver": "scipy", "rule": "newton",
                          "fixed_point": {"polish": 2}})  # fmt: skip
    exact = reference.solve(q=data["q"])
    assert float(exact.kkt.residual) < 1e-12
    problem = Opened(declare(data, ["q"]), method=method)
    found = problem.solve(q=data["q"])
    torch.testing.assert_close(found.primal[0], exact.primal, rtol=0, atol=1e-5)


def test_signs_of_duals_in_closed_form() -> None:
    # min ½x² + e^x - x + qx - ..., slope q at x = 0 is balanced by the one constraint that binds.
    def solve(q: float, **constraint: object) -> fc.Duals:
        problem = Problem(
            1,
            lambda x, q: (torch.cosh(x) + q * x).sum(),
            params={"q": Param(1)},
            **constraint,
        )
        solution = Opened(problem, method="trust-constr").solve(q=numbers(q))
        assert solution.status == (Status.OPTIMAL,)
        return solution.duals

    limit = float(torch.sinh(numbers(0.25)))
    # The lower the barrier the nearer the multipliers: rtol is 1e-8.
    near = {"abs": 1e-6}
    assert float(solve(-1.0, upper=0.25).upper) == pytest.approx(1 - limit, **near)
    assert float(solve(1.0, lower=0.25).lower) == pytest.approx(1 + limit, **near)
    row = solve(-1.0, inequality=lambda x: torch.sinh(x) - limit).inequality
    assert float(row) == pytest.approx((1 - limit) / float(torch.cosh(numbers(0.25))), **near)
    assert float(solve(-1.0, equality=lambda x: x - 0.25).equality) == pytest.approx(
        1 - limit, **near
    )
    assert float(solve(1.0, equality=lambda x: x - 0.25).equality) == pytest.approx(
        -1 - limit, **near
    )


def test_multipliers_are_those_of_the_unscaled_problem() -> None:
    # x = (0, 1, 0.9): the row binds the first, the equality the second, the bound the third.
    problem = Problem(
        3,
        lambda x, c: 1e4 * torch.cosh(x - c).sum(),
        params={"c": Param(3)},
        inequality=lambda x: (50 * torch.exp(x[0]) - 50).reshape(1),
        equality=lambda x: (30 * (x[0] + x[1]) - 30).reshape(1),
        upper=numbers(INF, INF, 0.9),
    )
    solution = Opened(problem, method="trust-constr").solve(c=numbers(2.0, 0.5, 2.0))
    torch.testing.assert_close(solution.primal[0], numbers(0.0, 1.0, 0.9), rtol=0, atol=1e-6)
    pull = 1e4 * torch.sinh(numbers(2.0, 0.5, 1.1))
    duals = solution.duals
    near = {"rtol": 1e-5, "atol": 0.1}
    torch.testing.assert_close(duals.equality[0], -pull[1:2] / 30, **near)
    torch.testing.assert_close(duals.inequality[0], (pull[:1] + pull[1:2]) / 50, **near)
    torch.testing.assert_close(duals.upper[0, 2:], pull[2:], **near)
    assert float(duals.lower.abs().max()) == 0.0


@IN_LAYERS
def test_slsqp_leaves_the_duals_to_the_core() -> None:
    assert Opened(constrained()).solve(c=normal(0, 5)).duals is None
    layer = fc.build({"problem": constrained(), "solver": "scipy", "rule": "newton"})
    duals = layer.solve(c=normal(0, 5)).duals
    assert bool((duals.lower >= 0).all())
    assert bool((duals.inequality >= 0).all())


@METHODS
def test_the_failures_are_told_apart(method: str) -> None:
    def status(problem: Problem, **options: object) -> tuple[Status, str]:
        solution = Opened(problem, method=method, **options).solve(c=numbers(1.0, -1.0))
        return solution.status[0], solution.messages[0]

    falls = Problem(2, lambda x, c: c @ x + torch.sin(x[0]), {"c": Param(2)}, lower=0.0)
    found, message = status(falls)
    assert found is Status.UNBOUNDED
    assert "feasible point" in message
    rows = Problem(
        2,
        lambda x, c: ((x - c) ** 4).sum(),
        {"c": Param(2)},
        inequality=lambda x: torch.stack([x[0] + x[1] - 1, 3 - x[0] - x[1]]),
    )
    found, message = status(rows)
    assert found is Status.INFEASIBLE
    assert "no nearby point is feasible" in message
    curved = Problem(
        2, lambda x, c: torch.cosh(c - x).sum(), {"c": Param(2)},
        equality=lambda x: (x @ x + 1).reshape(1),
    )  # fmt: skip
    assert status(curved)[0] is Status.INFEASIBLE
    wells = Problem(2, lambda x, c: ((x**2 - 1) ** 2).sum() + c @ x, {"c": Param(2)})
    found, message = status(wells, max_iter=1)
    assert found is Status.ITERATION_LIMIT
    assert method in message


def test_a_method_that_breaks_down_says_so() -> None:
    # At 0 the Jacobian of x0 x1 = 1/2 vanishes, though feasible points are near.
    problem = Problem(
        2, lambda x, c: torch.cosh(x - c).sum(), {"c": Param(2)},
        equality=lambda x: (x[0] * x[1] - 0.5).reshape(1),
    )  # fmt: skip
    found = Opened(problem).solve(c=numbers(1.0, 0.9))
    assert found.status == (Status.NUMERICAL,)
    assert "Singular matrix C" in found.messages[0]
    assert Opened(problem, restarts=2).solve(c=numbers(1.0, 0.9)).status == (Status.OPTIMAL,)


@METHODS
def test_nan_and_exceptions_stay_with_their_sample(method: str) -> None:
    problem = Problem(
        2, lambda x, c: (torch.cosh(x) + torch.sqrt(c - x)).sum(), {"c": Param(2)}, upper=0.9
    )
    c = torch.stack([numbers(2.0, 3.0), numbers(-5.0, 3.0), numbers(2.5, 2.0)])
    clean = c.clone()
    clean[1] = c[0]
    bad, good = (Opened(problem, method=method).solve(c=v) for v in (c, clean))
    assert bad.status == (Status.OPTIMAL, Status.NUMERICAL, Status.OPTIMAL)
    assert "NaN or inf at the start" in bad.messages[1]
    assert bool(bad.primal[1].isnan().all())
    assert same(bad, good, 0, 0)
    assert same(bad, good, 2, 2)


@METHODS
def test_an_exception_is_that_samples_own(method: str, monkeypatch) -> None:
    problem, c = Opened(two_wells(), method=method), 0.3 * normal(1, 3, 2)
    clean = problem.solve(c=c)
    gradient = fc.SmoothProgram.gradient

    def raises(program: fc.SmoothProgram, x: Tensor) -> Tensor:
        if bool((program.params["c"] == c[1]).all()) and float(x.abs().max()) > 0.6:
            raise ArithmeticError("planted")
        return gradient(program, x)

    monkeypatch.setattr(fc.SmoothProgram, "gradient", raises)
    solution = problem.solve(c=c)
    assert solution.status[1] is Status.NUMERICAL
    assert "ArithmeticError: planted" in solution.messages[1]
    assert same(solution, clean, 0, 0)
    assert same(solution, clean, 2, 2)


@METHODS
def test_a_trial_outside_of_the_domain_is_turned_back(method: str) -> None:
    c = 4 * normal(3, 4, 6)
    solution = Opened(entropy(), method=method).solve(c=c)
    assert set(solution.status) == {Status.OPTIMAL}, solution.messages
    # In closed form: x = min(1, e^{c - 1 - ν}) with Σ x = 2.
    low, high = c.amin(-1, keepdim=True) - 20, c.amax(-1, keepdim=True) + 20
    for _ in range(200):
        middle = (low + high) / 2
        more = torch.exp(c - 1 - middle).clamp(max=1).sum(-1, keepdim=True) > 2
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    torch.testing.assert_close(
        solution.primal, torch.exp(c - 1 - low).clamp(max=1), rtol=0, atol=3e-5
    )


@METHODS
def test_samples_do_not_depend_on_their_batch(method: str) -> None:
    problem, c = Opened(constrained(), method=method), normal(4, 3, 5)
    together = problem.solve(c=c)
    for i in reversed(range(3)):
        assert same(problem.solve(c=c[i : i + 1]), together, 0, i)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_change_nothing_but_the_time(backend: str) -> None:
    c = normal(5, 5, 2)
    options = {"method": "slsqp", "restarts": 1}
    alone = Opened(two_wells(), **options).solve(c=c)
    with joblib.parallel_config(backend=backend):
        shared = Opened(two_wells(), **options, workers=2).solve(c=c)
    assert all(same(alone, shared, i, i) for i in range(5))
    assert alone.messages == shared.messages


def test_workers_have_an_effect(monkeypatch) -> None:
    seen: list[int] = []
    chunk = session_module._solve_chunk

    def counted(config, items):
        seen.append(len(items))
        return chunk(config, items)

    monkeypatch.setattr(session_module, "_solve_chunk", counted)
    c = normal(5, 5, 2)
    Opened(two_wells()).solve(c=c)
    assert seen == [5]
    seen.clear()
    with joblib.parallel_config(backend="threading"):
        Opened(two_wells(), workers=2).solve(c=c)
    assert sorted(seen) == [2, 3]


def test_a_warm_start_is_used_and_leaves_no_trace() -> None:
    problem, c = Opened(two_wells()), numbers(0.1, 0.1)
    cold = problem.solve(c=c)
    left = Solution(numbers(-1.0, -1.0)[None], (Status.OPTIMAL,))
    right = Solution(numbers(1.0, 1.0)[None], (Status.OPTIMAL,))
    assert bool((problem.solve(left, c=c).primal < -0.5).all())
    assert bool((problem.solve(right, c=c).primal > 0.5).all())
    assert same(problem.solve(c=c), cold, 0, 0)
    broken = Solution(numbers(float("nan"), 1.0)[None], (Status.OPTIMAL,))
    assert same(problem.solve(broken, c=c), cold, 0, 0)
    again = Opened(constrained()).solve(c=normal(0, 5))
    warm = Opened(constrained()).solve(again, c=normal(0, 5))
    assert warm.iterations < again.iterations


@METHODS
def test_absent_limits_fixed_variables_and_data_rows(method: str) -> None:
    G, h = normal(6, 3, 4), numbers(INF, 0.2, INF)
    lower, upper = numbers(-INF, 0.3, -1.0, -INF), numbers(INF, 0.3, INF, 2.0)
    problem = QuadraticProgram(
        P=torch.eye(4).double(), q=Param(4), G=G, h=h, lower=lower, upper=upper
    )
    q = 2 * normal(7, 4)
    opened = Opened(problem, method=method)
    solution = opened.solve(q=q)
    assert solution.status == (Status.OPTIMAL,)
    assert float(opened.residual(solution, q=q)) < 1e-6
    assert float(solution.primal[0, 1]) == pytest.approx(0.3, abs=1e-9)
    if method == "trust-constr":
        assert bool((solution.duals.inequality[0, ::2] == 0).all())
        assert bool((solution.duals.lower[0, [0, 3]] == 0).all())
        assert bool((solution.duals.upper[0, [0, 2]] == 0).all())


@METHODS
def test_bounds_that_leave_one_point(method: str) -> None:
    fixed = Problem(2, lambda x, c: torch.exp(x - c).sum(), {"c": Param(2)}, lower=0.5, upper=0.5)
    assert Opened(fixed, method=method).solve(c=numbers(0, 0)).primal.tolist() == [[0.5, 0.5]]
    empty = Problem(
        2, lambda x, c: torch.exp(x - c).sum(), {"c": Param(2)}, lower=0.5, upper=0.5,
        equality=lambda x: (x.sum() - 2).reshape(1),
    )  # fmt: skip
    assert Opened(empty, method=method).solve(c=numbers(0, 0)).status == (Status.INFEASIBLE,)


@METHODS
def test_nonconvex_quadratic_problems(method: str) -> None:
    P = torch.diag(numbers(1.0, -2.0))
    problem = QuadraticProgram(
        P=P, q=Param(2), quadratic_P=2 * EYE[None], quadratic_q=torch.zeros(1, 2).double(),
        quadratic_r=numbers(4.0), lower=-3.0, upper=5.0,
    )  # fmt: skip
    assert problem.structure.problem_class is ProblemClass.NONCONVEX_QCQP
    opened, q = Opened(problem, method=method), numbers(0.0, -1.0)
    solution = opened.solve(q=q)
    assert solution.status == (Status.OPTIMAL,)
    torch.testing.assert_close(solution.primal[0], numbers(0.0, 2.0), rtol=0, atol=1e-5)


def test_single_precision_is_kept_and_solved_in_double() -> None:
    c = normal(8, 2, 5).float()
    problem = Opened(constrained())
    program = problem.problem.bind(
        {**{k: v.float() for k, v in problem.problem.constants.items()}, "c": c}, 2
    )
    solution = problem.session.solve(program, changed=frozenset())
    assert solution.primal.dtype == torch.float32
    exact = problem.solve(c=c.double())
    torch.testing.assert_close(solution.primal.double(), exact.primal, rtol=0, atol=2e-7)


@METHODS
def test_large_objectives_are_scaled(method: str) -> None:
    def problem(scale: float) -> Problem:
        return Problem(
            3, lambda x, c: scale * (torch.cosh(x - c).sum() + x @ x), {"c": Param(3)},
            inequality=lambda x: (scale * (x @ x - 1)).reshape(1), lower=-0.9,
        )  # fmt: skip

    c = numbers(3.0, -2.0, 1.0)
    small, large = (Opened(problem(s), method=method).solve(c=c) for s in (1.0, 1e6))
    assert small.status == large.status == (Status.OPTIMAL,)
    torch.testing.assert_close(small.primal, large.primal, rtol=0, atol=1e-5)


# Options


def count(**options: object) -> int:
    return sum(Opened(ellipse(), **options).solve(c=normal(9, 3, 3)).iterations)


@METHODS
def test_tolerances_have_an_effect(method: str) -> None:
    tight = count(method=method)
    assert count(method=method, rtol=1e-2) < tight
    assert count(method=method, atol=1e-2) < tight


def test_method_has_an_effect() -> None:
    c = normal(0, 5)
    assert Opened(constrained(), method="slsqp").solve(c=c).duals is None
    assert Opened(constrained(), method="trust-constr").solve(c=c).duals is not None


def test_start_has_an_effect() -> None:
    # The bounds are -2 and 3: the middle lies in the right wells, 0 between them.
    c = numbers(0.2, 0.2)
    assert bool((Opened(two_wells()).solve(c=c).primal > 0.5).all())
    assert bool((Opened(two_wells(), start="zeros").solve(c=c).primal < -0.5).all())


def test_restarts_find_the_better_optimum() -> None:
    c = numbers(0.2, 0.2)
    one, many = (Opened(two_wells(), restarts=r).solve(c=c) for r in (0, 8))
    program = Opened(two_wells()).bind(c=c)
    assert float(program.objective(many.primal)) < float(program.objective(one.primal)) - 0.3
    assert "of 9 starts" in many.messages[0]


def test_seed_has_an_effect() -> None:
    def iterations(seed: int) -> tuple[int, ...]:
        return Opened(two_wells(), restarts=3, seed=seed).solve(c=numbers(0.2, 0.1)).iterations

    assert iterations(1) == iterations(1)
    assert len({iterations(seed) for seed in range(4)}) > 1


def test_unbounded_below_has_an_effect() -> None:
    falls = Problem(2, lambda x, c: c @ x + torch.sin(x[0]), {"c": Param(2)}, lower=0.0)
    capped = Problem(2, lambda x, c: c @ x + torch.sin(x[0]), {"c": Param(2)}, lower=0.0, upper=1e3)
    c = numbers(1.0, -1.0)
    message = Opened(falls, unbounded_below=1e3).solve(c=c).messages[0]
    assert "e+15" not in message
    assert Opened(capped).solve(c=c).status == (Status.OPTIMAL,)
    assert Opened(capped, unbounded_below=10.0).solve(c=c).status == (Status.UNBOUNDED,)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="both 0"):
        ScipyConfig(rtol=0, atol=0)
    with pytest.raises(ValueError, match="extra"):
        ScipyConfig(ftol=1e-3)
    with pytest.raises(ValueError, match="without restarts"):
        ScipyConfig(seed=3)
    for field in ScipyConfig.model_fields.values():
        assert "(" in field.description or "units" in field.description


# In a layer


@IN_LAYERS
@METHODS
@pytest.mark.parametrize("make", [constrained, entropy, two_wells, ellipse])
def test_polished_layers_are_exact_and_so_are_their_gradients(make, method: str) -> None:
    problem = make()
    solver = {"kind": "scipy", "method": method}
    layer = fc.build(
        {"problem": problem, "solver": solver, "rule": "newton", "fixed_point": {"polish": 2}}
    )
    c = (0.5 * normal(10, 3, problem.n)).requires_grad_()
    weights = normal(11, 3, problem.n)
    solution = layer.solve(c=c)
    assert float(solution.kkt.residual.max()) < 1e-10
    program = problem.bind({**problem.constants, "c": c.detach()}, 3)
    assert float(fc.kkt_report(program, solution.primal.detach())[0].residual.max()) < 1e-10
    (solution.primal * weights).sum().backward()
    step, direction = 1e-5, normal(12, 3, problem.n)
    with torch.no_grad():
        moved = [layer(c=c + s * direction, warm_start=solution) for s in (step, -step)]
    expected = ((moved[0] - moved[1]) / (2 * step) * weights).sum(-1)
    torch.testing.assert_close((c.grad * direction).sum(-1), expected, rtol=1e-6, atol=1e-6)


@IN_LAYERS
def test_build_picks_scipy_and_newton_for_what_is_not_quadratic() -> None:
    layer = fc.build({"problem": constrained()})
    assert type(layer.solver) is ScipySolver
    assert type(layer.rule).__name__ == "NewtonRule"
    x = layer(c=normal(0, 2, 5).requires_grad_())
    x.sum().backward()


@IN_LAYERS
def test_layers_with_lambdas_pickle() -> None:
    solver = {"kind": "scipy", "workers": 2}
    layer = fc.build({"problem": constrained(), "solver": solver, "rule": "newton"})
    c = normal(0, 2, 5)
    copy = pickle.loads(pickle.dumps(layer))
    assert torch.equal(copy(c=c), layer(c=c))


@IN_LAYERS
def test_failed_samples_are_masked_in_a_layer() -> None:
    problem = Problem(
        2, lambda x, c: (torch.cosh(x) + torch.sqrt(c - x)).sum(), {"c": Param(2)}, upper=0.9
    )
    layer = fc.build(
        {"problem": problem, "solver": "scipy", "rule": "newton", "on_failure": "mask"}
    )
    c = torch.stack([numbers(2.0, 3.0), numbers(-5.0, 3.0)]).requires_grad_()
    with pytest.warns(fc.SolveWarning, match="samples 1"):
        x = layer(c=c)
    x.nansum().backward()
    assert bool((c.grad[1] == 0).all())
    assert bool((c.grad[0] != 0).all())


def test_the_plugin_declares_itself() -> None:
    (entry,) = entry_points(group="foldcore.solvers", name="scipy")
    assert entry.load() is ScipySolver
    solver = ScipySolver(ScipyConfig())
    assert ScipySolver.unusable_reason() is None
    assert ScipySolver.rank(constrained().structure) == 4
    quadratic = declare(random_qp(0, 3), ["q"]).structure
    assert ScipySolver.rank(quadratic) == 0
    assert solver.unsupported_reason(quadratic) is None
    linear = QuadraticProgram(q=Param(2), lower=0.0)
    assert "class lp" in str(solver.unsupported_reason(linear.structure))
    ball = Problem(
        2, lambda x, c: torch.cosh(x - c).sum(), {"c": Param(2)}, constraints=[fc.L1Ball(1.0)]
    )
    reason = "L1Ball cannot be written as constraint rows"
    assert reason in str(solver.unsupported_reason(ball.lowered_structure))
    with pytest.raises(fc.ConfigError, match=reason):
        fc.build({"problem": ball, "solver": "scipy"})
