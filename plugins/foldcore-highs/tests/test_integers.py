"""Integer LPs: against enumeration, gradients of the fixed problem, statuses, options, no output."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from collections.abc import Mapping

import highspy
import pytest
import scipy.optimize
import torch
from foldcore_highs import HighsConfig, HighsSolver
from foldcore_highs.model import HighsModel
from torch import Tensor

import foldcore as fc

F64 = torch.float64
N, K, ROWS, TOP, CAP = 8, 4, 5, 2, 0.4
"""K columns of N are whole numbers from 0 to TOP; the others lie between 0 and CAP."""
GENERATOR = torch.Generator().manual_seed(4)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=GENERATOR, dtype=F64)


B = 6
VALUES = {
    "q": -0.2 - uniform(B, N),
    "G": 0.2 + uniform(B, ROWS, N),
    "h": 1.5 + 2 * uniform(B, ROWS),
    "upper": torch.tensor([float(TOP)] * K + [CAP] * (N - K), dtype=F64),
}


def declared(**fields: object) -> fc.QuadraticProgram:
    given = {"q": fc.Param(N), "G": fc.Param(ROWS, N), "h": fc.Param(ROWS), "upper": fc.Param(N)}
    return fc.QuadraticProgram(**{**given, "lower": 0.0, "integer": range(K), **fields})


def solved(
    problem: fc.QuadraticProgram, values: Mapping[str, Tensor], **options: object
) -> fc.Solution:
    session = HighsSolver(HighsConfig(**options)).open(problem.structure)
    batch = max([len(v) for k, v in values.items() if v.ndim > len(problem.params[k].shape)] or [1])
    program = problem.bind({**problem.constants, **values}, batch)
    return session.solve(program, changed=frozenset(problem.varying))


def enumerated(sample: int) -> tuple[float, Tensor]:
    """Return the best objective and point over all whole numbers, by an LP for each."""
    q, G, h = (VALUES[name][sample] for name in ("q", "G", "h"))
    best, point = float("inf"), torch.empty(0)
    for whole in itertools.product(range(TOP + 1), repeat=K):
        fixed = torch.tensor(whole, dtype=F64)
        left = h - G[:, :K] @ fixed
        if bool((left < 0).any()):
            continue
        rest = scipy.optimize.linprog(q[K:], G[:, K:], left, bounds=[(0, CAP)] * (N - K))
        value = rest.fun + float(q[:K] @ fixed)
        if value < best:
            best, point = value, torch.cat([fixed, torch.from_numpy(rest.x)])
    return best, point


def test_integer_lps_agree_with_enumeration() -> None:
    solution = solved(declared(), VALUES)
    assert solution.status == (fc.Status.OPTIMAL,) * B
    assert solution.duals is None
    relaxed, gaps = solved(declared(integer=None), VALUES), []
    for i in range(B):
        best, point = enumerated(i)
        found = float(VALUES["q"][i] @ solution.primal[i])
        assert found == pytest.approx(best, rel=1e-9)
        torch.testing.assert_close(solution.primal[i], point, rtol=0, atol=1e-7)
        gaps.append(best - float(VALUES["q"][i] @ relaxed.primal[i]))
    assert min(gaps) >= -1e-12
    assert sum(gap > 1e-3 for gap in gaps) >= B / 2, "integrality matters here"


def test_gradients_of_fixed_integers_are_those_of_the_integer_lps_solution_map() -> None:
    for plugin in ("newton", "direct"):
        pytest.importorskip(f"foldcore_{plugin}", reason=f"folds with foldcore-{plugin}")
    config = {"problem": declared(), "solver": "highs", "rule": "newton", "adjoint": "direct"}
    layer = fc.build({**config, "relaxation": "fixed_integers"})
    leaves = {name: value.clone().requires_grad_() for name, value in VALUES.items()}
    weights = uniform(B, N)
    solution = layer.solve(**leaves)
    assert solution.kkt is not None
    assert float(solution.kkt.residual.max()) < 1e-12
    assert int((solution.primal[:, :K] != 0).sum()) > B, "not all whole numbers are zero"
    free = (solution.primal[:, K:] > 1e-6) & (solution.primal[:, K:] < CAP - 1e-6)
    assert bool(free.any(-1).all()), "every sample has a column that can move"
    (solution.primal * weights).sum().backward()
    step = 1e-5
    for name, value in VALUES.items():
        direction = torch.randn(value.shape, generator=GENERATOR, dtype=F64)
        if name == "upper":
            direction[:K] = 0.0  # where an integer column is at its bound, lowering it is a jump
        ends = [
            solved(declared(), {**VALUES, name: value + sign * step * direction}).primal
            for sign in (1, -1)
        ]
        assert torch.equal(ends[0][:, :K].round(), ends[1][:, :K].round()), "no jump between"
        expected = float(((ends[0] - ends[1]) * weights).sum()) / (2 * step)
        gradient = leaves[name].grad
        assert gradient is not None
        found = float((gradient * direction).sum())
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9), name
        assert name == "q" or abs(expected) > 1e-2, name
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(**VALUES), layer(**VALUES))


def test_cardinality_rows_of_integers_alone_leave_the_gradient_unique() -> None:
    """min Σ c_i y_i - s  s.t.  Σ y = 2, y binary, s <= Σ r_i y_i: s moves with r where y is 1."""
    for plugin in ("newton", "direct"):
        pytest.importorskip(f"foldcore_{plugin}", reason=f"folds with foldcore-{plugin}")
    problem = fc.Problem(
        5, lambda x, c: c @ x[:4] - x[4], {"c": fc.Param(4), "r": fc.Param(4), "k": fc.Param()},
        equality=lambda x, k: (x[:4].sum() - k).reshape(1),
        inequality=lambda x, r: (x[4] - r @ x[:4]).reshape(1),
        lower=0.0, upper=torch.tensor([1.0, 1, 1, 1, 50], dtype=F64), integer=[0, 1, 2, 3],
    )  # fmt: skip
    layer = fc.build({"problem": problem, "relaxation": "fixed_integers", "rule": "newton"})
    assert isinstance(layer.solver, HighsSolver), "the one discrete solver is chosen"
    values = {
        "c": torch.tensor([0.1, 0.9, 0.3, 0.2], dtype=F64),
        "r": torch.tensor([2.0, 2.5, 2.2, 1.0], dtype=F64),
        "k": torch.tensor(2.0, dtype=F64),
    }
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    solution = layer.solve(**leaves)
    assert solution.primal.tolist() == pytest.approx([1.0, 0.0, 1.0, 0.0, 4.2])
    solution.primal[4].backward()
    assert [leaves[name].grad.tolist() for name in ("c", "r", "k")] == [
        pytest.approx([0.0] * 4), pytest.approx([1.0, 0.0, 1.0, 0.0]), pytest.approx(0.0)
    ]  # fmt: skip
    assert solution.duals is not None
    assert solution.duals.equality.shape == (1,)


def test_results_do_not_depend_on_history_or_workers() -> None:
    problem = declared()
    together = solved(problem, VALUES)
    for i in reversed(range(B)):
        single = {k: v[i : i + 1] if v.ndim > 1 else v for k, v in VALUES.items()}
        assert torch.equal(solved(problem, single).primal[0], together.primal[i])
    assert torch.equal(solved(problem, VALUES, workers=2).primal, together.primal)


def test_infeasible_and_unbounded_integer_lps_are_told_apart() -> None:
    two = torch.tensor([[2.0, 0.0]], dtype=F64)
    odd = fc.QuadraticProgram(
        q=fc.Param(2), A=two, b=fc.Param(1), lower=0.0, upper=5.0, integer=[0]
    )
    values = {"q": torch.ones(2, dtype=F64), "b": torch.tensor([[2.0], [3.0]], dtype=F64)}
    solution = solved(odd, values)
    assert solution.status == (fc.Status.OPTIMAL, fc.Status.INFEASIBLE)
    assert solution.primal[0].tolist() == [1.0, 0.0]
    free = fc.QuadraticProgram(q=fc.Param(2), lower=0.0, integer=[0])
    q = torch.tensor([[-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=F64)
    unbounded, optimal = fc.Status.UNBOUNDED, fc.Status.OPTIMAL
    assert solved(free, {"q": q}).status == (unbounded, optimal, unbounded)


HARD = {
    "q": -torch.randint(20, 60, (30,), generator=GENERATOR).double(),
    "G": torch.randint(1, 60, (15, 30), generator=GENERATOR).double(),
    "h": torch.full((15,), 500.3, dtype=F64),
    "upper": torch.full((30,), 3.0, dtype=F64),
}


def hard() -> fc.QuadraticProgram:
    return fc.QuadraticProgram(
        **{name: fc.Param(*value.shape) for name, value in HARD.items()},
        lower=0.0,
        integer=torch.ones(30, dtype=torch.bool),
    )


def test_mip_rel_gap_has_an_effect() -> None:
    exact, loose = (solved(hard(), HARD, mip_rel_gap=gap) for gap in (1e-9, 0.5))
    assert exact.status == loose.status == (fc.Status.OPTIMAL,)
    gain = float(HARD["q"] @ exact.primal[0]), float(HARD["q"] @ loose.primal[0])
    assert gain[0] < gain[1] - 0.5
    assert HighsConfig().mip_rel_gap == 1e-9


def test_limits_of_nodes_and_time_are_told_apart() -> None:
    assert solved(hard(), HARD, max_iter=1).status == (fc.Status.ITERATION_LIMIT,)
    assert solved(hard(), HARD, time_limit=1e-9).status == (fc.Status.TIME_LIMIT,)


def test_integer_qps_are_refused_at_build() -> None:
    message = "HighsSolver cannot solve this problem: HiGHS solves integer LPs, but no integer QPs"
    config = {"solver": "highs", "relaxation": "fixed_integers"}
    with pytest.raises(fc.ConfigError, match=message):
        fc.build({"problem": declared(P=torch.eye(N, dtype=F64)), **config})


@pytest.mark.parametrize("method", ["simplex", "ipm", "pdlp"])
def test_a_method_for_lps_never_drops_integrality(method: str) -> None:
    assert torch.equal(
        solved(declared(), VALUES, method=method).primal, solved(declared(), VALUES).primal
    )


PROGRAM = """
import torch
import foldcore as fc
from foldcore_highs import HighsConfig, HighsSolver
one = torch.ones(2, dtype=torch.float64)
for curved in (False, True):
    for integer in ([], [0]):
        if curved and integer:
            continue
        fields = {"P": torch.eye(2)} if curved else {}
        problem = fc.QuadraticProgram(q=fc.Param(2), lower=-one, upper=one, integer=integer, **fields)
        for threads in (1, 2):
            solver = HighsSolver(HighsConfig(threads=threads))
            session = solver.open(problem.structure)
            program = problem.bind({**problem.constants, "q": 0.5 * one}, 1)
            answer = session.solve(program, changed=frozenset({"q"}))
            if answer.failed:
                raise SystemExit(str(answer))
"""


def run(program: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout, done.stderr


def test_highs_prints_nothing_and_would_do_so_untamed() -> None:
    assert run(PROGRAM) == ("", "")
    assert "Running HiGHS" in run("import highspy; highspy.Highs()")[0]


def test_models_are_opened_for_the_declared_columns() -> None:
    model = HighsSolver(HighsConfig()).model(declared().structure, single_thread=True)
    assert isinstance(model, HighsModel)
    program = declared().bind({**declared().constants, **VALUES}, B)
    solver = HighsSolver(HighsConfig())
    passed: list[list[highspy.HighsVarType]] = []
    original = highspy.Highs.passModel

    def spy(self: highspy.Highs, lp: highspy.HighsLp) -> highspy.HighsStatus:
        passed.append(list(lp.integrality_))
        return original(self, lp)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(highspy.Highs, "passModel", spy)
        solver.open(declared().structure).solve(program, changed=frozenset(VALUES))
        solver.open(declared(integer=None).structure).solve(program, changed=frozenset(VALUES))
    kinds = highspy.HighsVarType
    assert passed[:B] == [[kinds.kInteger] * K + [kinds.kContinuous] * (N - K)] * B
    assert passed[B:] == [[]] * B
