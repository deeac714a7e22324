"""Whole numbers are refused unless a relaxation is named; what each relaxation folds, and says."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc

N, B, F64 = 4, 3, torch.float64
P = torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=F64)
Q = torch.tensor([[-1.4, -3.0, 0.7, -2.0], [2.2, 1.0, -0.3, 3.0], [-0.7, 0.5, 1.2, 1.0]], dtype=F64)
INTEGER = [0, 2]


def boxed(**extra: Any) -> fc.QuadraticProgram:
    """Return min Σ ½ p x² + q x on a box: separable, so that each column has a closed form."""
    fields = {"P": torch.diag(P), "q": fc.Param(N), "lower": -3.0, "upper": 3.0, "integer": INTEGER}
    return fc.QuadraticProgram(**{**fields, **extra})


class Separable(fc.Solver):
    """Solves ``boxed`` in closed form, whole numbers included, and notes what it was opened for."""

    api_version = 1
    config_class = fc.PluginConfig
    capabilities = fc.Capabilities(
        problem_classes=frozenset({fc.ProblemClass.QP}), native_batch=True, discrete=True
    )

    def __init__(self, config: fc.PluginConfig | None = None) -> None:
        self.config = config or fc.PluginConfig()
        self.opened: list[tuple[int, ...]] = []

    def open(self, structure: fc.ProgramStructure) -> fc.Session:
        self.opened.append(structure.integer)
        return SeparableSession(structure.integer, self.answer)

    def answer(self, x: Tensor, integer: tuple[int, ...], q: Tensor) -> fc.Solution:
        columns = list(integer)
        x[:, columns] = x[:, columns].round()  # the best whole number of a parabola
        return fc.Solution(x, (fc.Status.OPTIMAL,) * len(x))


class SeparableSession(fc.Session):
    def __init__(self, integer: tuple[int, ...], answer: Callable[..., fc.Solution]) -> None:
        self._integer, self._answer = integer, answer

    def solve(self, program: fc.SmoothProgram, **_: Any) -> fc.Solution:
        data = program.data
        assert data.q is not None
        x = (-data.q / P).clamp(data.lower, data.upper).expand(program.batch, N).clone()
        return self._answer(x, self._integer, data.q)


class Unaware(Separable):
    """Claims to support every structure, as a plugin may that never heard of whole numbers."""

    capabilities = fc.Capabilities(
        problem_classes=frozenset({fc.ProblemClass.QP}), native_batch=True
    )

    def unsupported_reason(self, structure: fc.ProgramStructure) -> str | None:
        return None


def layer_of(relaxation: str | None, solver: Any = None, **config: Any) -> fc.Fold:
    for plugin in ("newton", "direct"):
        pytest.importorskip(f"foldcore_{plugin}", reason=f"folds with foldcore-{plugin}")
    given = {"problem": boxed(), "rule": "newton", "adjoint": "direct", **config}
    return fc.build({**given, "solver": solver or Separable(), "relaxation": relaxation})


def test_whole_numbers_are_refused_unless_a_relaxation_is_named() -> None:
    message = "^relaxation: missing. The problem declares columns 0, 2 integer, .* gradient zero"
    for solver in ({}, {"solver": Separable()}, {"solver": Unaware()}):
        with pytest.raises(fc.ConfigError, match=message) as caught:
            fc.build({"problem": boxed(), **solver})
        assert "'continuous'" in str(caught.value)
        assert "'fixed_integers'" in str(caught.value)


def test_a_relaxation_of_nothing_is_refused() -> None:
    with pytest.raises(fc.ConfigError, match=r"^relaxation: 'continuous' has no effect"):
        fc.build({"problem": boxed(integer=None), "relaxation": "continuous"})


def test_a_solver_that_is_not_discrete_never_receives_whole_numbers() -> None:
    solver = Unaware()
    message = "^solver: Unaware cannot solve this problem: columns 0, 2 are declared integer"
    with pytest.raises(fc.ConfigError, match=message):
        layer_of("fixed_integers", solver)
    layer = layer_of("continuous", solver)
    layer(q=Q)
    assert solver.opened == [()]


def test_continuous_folds_the_problem_without_that_demand() -> None:
    layer = layer_of("continuous", Unaware())
    q = Q.clone().requires_grad_()
    x = layer(q=q)
    torch.testing.assert_close(x, (-Q / P).clamp(-3, 3))
    x.sum().backward()
    torch.testing.assert_close(q.grad, torch.where((Q / P).abs() < 3, -1 / P, 0.0))
    assert isinstance(layer.problem, fc.QuadraticProgram)
    assert layer.problem.structure.integer == ()


def test_fixed_integers_hold_them_and_fold_the_rest() -> None:
    layer = layer_of("fixed_integers")
    q = Q.clone().requires_grad_()
    solution = layer.solve(q=q)
    expected = (-Q / P).clamp(-3, 3)
    expected[:, INTEGER] = expected[:, INTEGER].round()
    torch.testing.assert_close(solution.primal, expected, rtol=1e-12, atol=1e-12)
    assert solution.kkt is not None
    assert float(solution.kkt.residual.max()) < 1e-12, "of the problem in which they are fixed"
    solution.primal.sum().backward()
    slope = -1 / P
    slope[INTEGER] = 0.0
    torch.testing.assert_close(q.grad, slope.expand(B, N), rtol=1e-12, atol=0)
    single = Q[0].clone().requires_grad_()
    x = layer(q=single)
    torch.testing.assert_close(x, expected[0])
    x.sum().backward()
    torch.testing.assert_close(single.grad, slope)


@pytest.mark.parametrize("relaxation", ["continuous", "fixed_integers"])
def test_layers_and_solutions_say_which_relaxation_they_are_of(relaxation: str) -> None:
    layer = layer_of(relaxation)
    said = f"relaxation: {relaxation} (columns 0, 2 integer)"
    assert said in repr(layer)
    assert layer.solve(q=Q).messages == (said,) * B
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(q=Q), layer(q=Q))
        assert said in repr(twin)
    plain = layer_of(None, problem=boxed(integer=None))
    assert "relaxation" not in repr(plain)
    assert plain.solve(q=Q).messages == ("",) * B


def test_a_sample_without_whole_numbers_harms_no_other() -> None:
    class Failing(Separable):
        def answer(self, x: Tensor, integer: tuple[int, ...], q: Tensor) -> fc.Solution:
            found = super().answer(x, integer, q)
            bad = (q[:, 1] == 77) & bool(integer)
            status = [fc.Status.TIME_LIMIT if b else fc.Status.OPTIMAL for b in bad.tolist()]
            return fc.Solution(found.primal, tuple(status))

    q = Q.clone()
    q[1, 1], q[2, 0] = 77.0, float("nan")
    message = "samples 1: time_limit .search for whole numbers: Failing: time_limit"
    with pytest.raises(fc.SolveError, match=message) as caught:
        layer_of("fixed_integers", Failing())(q=q[:2])
    assert caught.value.samples == (1,)
    with pytest.raises(fc.InputError, match="'q' contains NaN"):
        layer_of("fixed_integers", Failing())(q=q)
    layer = layer_of("fixed_integers", Failing(), on_failure="mask")
    given = q.clone().requires_grad_()
    with pytest.warns(fc.SolveWarning):
        solution = layer.solve(q=given)
    assert solution.status[1:] == (fc.Status.TIME_LIMIT, fc.Status.INVALID_INPUT)
    assert torch.equal(solution.primal[0], layer(q=Q)[0])
    solution.primal.nan_to_num().sum().backward()
    assert given.grad is not None
    assert (given.grad[1:] == 0).all()
    assert (given.grad[0, [1, 3]] != 0).all()
    with pytest.warns(fc.SolveWarning):
        assert layer(q=q[1:]).isnan().all()


def test_fractional_answers_of_a_discrete_solver_are_caught() -> None:
    class Fractional(Separable):
        def answer(self, x: Tensor, integer: tuple[int, ...], q: Tensor) -> fc.Solution:
            return fc.Solution(x, (fc.Status.OPTIMAL,) * len(x))

    with pytest.raises(fc.SolveError, match="integer columns are not whole"):
        layer_of("fixed_integers", Fractional())(q=Q)

    class Nearly(Separable):
        def answer(self, x: Tensor, integer: tuple[int, ...], q: Tensor) -> fc.Solution:
            found = super().answer(x, integer, q)
            found.primal[:, list(integer)] += 1e-6
            return found

    assert torch.equal(layer_of("fixed_integers", Nearly())(q=Q), layer_of("fixed_integers")(q=Q))


def test_rows_of_integers_that_the_solver_violates_are_caught() -> None:
    rows = {"G": torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=F64), "h": fc.Param(1)}
    layer = layer_of("fixed_integers", problem=boxed(**rows))
    total = (-Q / P).clamp(-3, 3)[:, INTEGER].round().sum(-1, keepdim=True)
    layer(q=Q, h=total)
    with pytest.raises(fc.SolveError, match=r"samples 1: .*violate rows") as caught:
        layer(q=Q, h=total - torch.tensor([[0.0], [0.5], [0.0]], dtype=F64))
    assert caught.value.samples == (1,)


def test_a_dense_parameter_whose_rows_cannot_leave_is_refused() -> None:
    rows = {"A": fc.Param(1, N), "b": fc.Param(1)}
    layer = layer_of("fixed_integers", problem=boxed(**rows))
    values = {"q": Q, "b": torch.zeros(1, dtype=F64)}
    with pytest.raises(fc.SolveError, match="declare A as a constant or Sparse"):
        layer(**values, A=torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=F64))


def test_an_asserted_structure_is_checked_at_the_whole_numbers() -> None:
    problem = fc.Problem(
        N, lambda x, q: q @ x + (P * x * x).sum() / 2 + 0.3 * (1 + x[1]).sin(), {"q": fc.Param(N)},
        lower=-3.0, upper=3.0, structure="qp", integer=torch.tensor([True, False, True, False]),
    )  # fmt: skip
    with pytest.raises(fc.RecognitionError, match="the objective is not the quadratic"):
        layer_of("fixed_integers", problem=problem)(q=Q)


def test_sets_without_rows_are_refused_for_fixed_integers() -> None:
    problem = fc.Problem(
        N, lambda x, q: ((x - q) ** 2).sum(), {"q": fc.Param(N)},
        constraints=[fc.L1Ball(2.0)], integer=INTEGER,
    )  # fmt: skip
    with pytest.raises(fc.ConfigError, match=r"L1Ball has no rows\. Use 'continuous'"):
        fc.build({"problem": problem, "relaxation": "fixed_integers"})


def test_diagnosis_is_of_the_fixed_problem() -> None:
    found = fc.diagnose(layer_of("fixed_integers"), q=Q)
    assert float(found.difference_error.max()) < 1e-6
    assert float(found.gradient_error.max()) < 1e-10


def test_inner_problems_have_no_whole_numbers() -> None:
    pytest.importorskip("foldcore_pgd", reason="nests foldcore-pgd")
    inner = {"solver": Unaware(), "rule": "newton", "adjoint": "direct"}
    rule = {"kind": "pgd", "projection": "inner", "inner": inner}
    layer = layer_of("fixed_integers", rule=rule)
    nested = layer.inner["inner"]
    assert isinstance(nested, fc.Fold)
    assert nested.problem.structure.integer == ()
    wrong = {**rule, "inner": {**inner, "relaxation": "continuous"}}
    with pytest.raises(fc.ConfigError, match=r"^rule\.inner\.relaxation: .* has no effect"):
        layer_of("fixed_integers", rule=wrong)


@pytest.mark.parametrize("mode", ["fixed_point_unfold", "unfold", "unroll"])
def test_the_other_modes_differentiate_the_fixed_problem_too(mode: str) -> None:
    pytest.importorskip("foldcore_pgd", reason="iterates foldcore-pgd")
    rule = {"kind": "pgd", "step_size": 0.4}
    layer = layer_of("fixed_integers", rule=rule, mode=mode, iterations=300)
    q = Q.clone().requires_grad_()
    x = layer(q=q)
    torch.testing.assert_close(x, layer_of("fixed_integers")(q=Q), rtol=1e-10, atol=1e-10)
    x.sum().backward()
    slope = -1 / P
    slope[INTEGER] = 0.0
    torch.testing.assert_close(q.grad, slope.expand(B, N), rtol=1e-8, atol=1e-12)


def test_a_solution_is_a_warm_start_in_its_own_rows() -> None:
    given: list[fc.Solution | None] = []

    class Warm(Separable):
        capabilities = fc.Capabilities(
            problem_classes=frozenset({fc.ProblemClass.QP}), warm_start=True, discrete=True
        )

        def open(self, structure: fc.ProgramStructure) -> fc.Session:
            session = super().open(structure)
            solve = session.solve

            def noted(program: fc.SmoothProgram, **keywords: Any) -> fc.Solution:
                given.append(keywords.get("warm_start"))
                return solve(program, **keywords)

            session.solve = noted  # type: ignore[method-assign]
            return session

    rows = {"A": torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], dtype=F64), "b": fc.Param(2)}
    layer = layer_of("fixed_integers", Warm(), problem=boxed(**rows))
    values = {"q": Q[0], "b": torch.tensor([1.0, 1.5], dtype=F64)}
    first = layer.solve(**values)
    assert first.duals is not None
    assert first.duals.equality.shape == (2,)
    assert float(first.duals.equality[0]) == 0.0, "a row of integers alone is decided"
    given.clear()
    again = layer.solve(**values, warm_start=first)
    torch.testing.assert_close(again.primal, first.primal)
    search, rest = given
    assert search is None
    assert rest is not None
    assert rest.duals is not None
    assert torch.equal(rest.duals.equality, first.duals.equality[None, 1:])


def test_dtype_is_kept() -> None:
    q = Q.float().requires_grad_()
    x = layer_of("fixed_integers", kkt={"atol": 1e-4})(q=q)
    assert x.dtype == torch.float32
    x.sum().backward()
    assert q.grad is not None
    assert q.grad.dtype == torch.float32
