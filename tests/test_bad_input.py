"""Bad input gets the error of its class, which names the argument; nothing is a bare RuntimeError."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import foldcore as fc

for name in ("newton", "pgd", "osqp", "direct"):
    pytest.importorskip(f"foldcore_{name}", reason=f"bad input is tried on foldcore-{name}")

N, B = 3, 4
EYE = torch.eye(N, dtype=torch.float64)
ONES = torch.ones(N, dtype=torch.float64)
INF = float("inf")


def qp(**fields: Any) -> fc.QuadraticProgram:
    given = {"P": EYE, "q": fc.Param(N), "lower": -ONES, "upper": ONES}
    return fc.QuadraticProgram(**{**given, **fields})


def layer(problem: fc.ParametricProblem | None = None, **config: Any) -> fc.Fold:
    given: dict[str, Any] = {"problem": problem or qp(), "solver": "osqp", "rule": "newton"}
    return fc.build({**given, **config})


def batch(**changes: Any) -> dict[str, Any]:
    return {"q": torch.zeros(B, N, dtype=torch.float64), **changes}


def full() -> fc.Fold:
    return layer(
        qp(P=fc.Param(N, N), A=fc.Param(1, N), b=fc.Param(1), lower=fc.Param(N), upper=fc.Param(N))
    )


def full_values(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "P": EYE, "q": torch.zeros(B, N, dtype=torch.float64), "A": ONES[None] / N,
        "b": 0 * ONES[:1], "lower": -ONES, "upper": ONES,
    }  # fmt: skip
    return {**values, **changes}


@dataclass
class Case:
    """A call that must fail, the class of its error and what its message must hold."""

    call: Callable[[], object]
    error: type[fc.FoldcoreError]
    names: str


def indefinite(**shape: int) -> Tensor:
    P = EYE.repeat(B, 1, 1)
    P[2, 0, 0] = -1.0
    return P


CASES = {
    "shape": Case(lambda: layer()(q=ONES[:2]), fc.ShapeError, r"'q' has shape \(2,\)"),
    "too many dimensions": Case(
        lambda: layer()(q=torch.zeros(2, B, N, dtype=torch.float64)), fc.ShapeError, "'q'"
    ),
    "scalar for a vector": Case(lambda: layer()(q=ONES[0]), fc.ShapeError, "'q'"),
    "matrix transposed": Case(
        lambda: full()(**full_values(A=ONES[:, None])), fc.ShapeError, r"'A' has shape \(3, 1\)"
    ),
    "empty batch": Case(lambda: layer()(q=torch.zeros(0, N).double()), fc.ShapeError, "empty"),
    "batch sizes differ": Case(
        lambda: full()(**full_values(b=torch.zeros(B + 1, 1).double())),
        fc.ShapeError,
        "'q' has 4, 'b' has 5",
    ),
    "dtypes differ": Case(
        lambda: full()(**full_values(P=EYE.float())), fc.DtypeError, "'P' is torch.float32.*'q'"
    ),
    "integers": Case(
        lambda: layer()(q=torch.zeros(B, N, dtype=torch.int64)), fc.DtypeError, "'q' has dtype"
    ),
    "booleans": Case(
        lambda: layer()(q=torch.zeros(N, dtype=torch.bool)), fc.DtypeError, "'q' has dtype"
    ),
    "complex": Case(
        lambda: layer()(q=torch.zeros(N, dtype=torch.complex128)), fc.DtypeError, "'q' has dtype"
    ),
    "half precision": Case(
        lambda: layer()(q=torch.zeros(N, dtype=torch.float16)), fc.DtypeError, "'q' has dtype"
    ),
    "bfloat16": Case(
        lambda: layer()(q=torch.zeros(N, dtype=torch.bfloat16)), fc.DtypeError, "'q' has dtype"
    ),
    "other device": Case(
        lambda: layer()(q=torch.zeros(N, dtype=torch.float64, device="meta")),
        fc.DtypeError,
        "on meta.*on cpu",
    ),
    "devices differ": Case(
        lambda: full()(**full_values(P=EYE.to("meta"))), fc.DtypeError, "'P' is .* on meta, 'q'"
    ),
    "no tensor": Case(lambda: layer()(q=[0.0] * N), fc.InputError, "'q' is a list"),
    "None": Case(lambda: layer()(q=None), fc.InputError, "'q' is a NoneType"),
    "numpy": Case(lambda: layer()(q=ONES.numpy()), fc.InputError, "'q' is a ndarray"),
    "NaN": Case(
        lambda: layer()(**batch(q=torch.tensor([[0.0] * N, [math.nan] * N]).double())),
        fc.InputError,
        "'q' contains NaN or inf in samples 1",
    ),
    "NaN in shared": Case(lambda: layer()(q=ONES * math.nan), fc.InputError, "'q' contains NaN"),
    "inf in q": Case(lambda: layer()(q=ONES * INF), fc.InputError, "'q' contains NaN or inf"),
    "NaN in a bound": Case(
        lambda: full()(**full_values(lower=ONES * math.nan)), fc.InputError, "'lower' contains NaN"
    ),
    "missing": Case(lambda: layer()(), fc.MissingParameterError, "missing parameter 'q'"),
    "unexpected": Case(
        lambda: layer()(**batch(qq=ONES)), fc.UnexpectedParameterError, "'qq'. Did you mean 'q'"
    ),
    "constant passed": Case(
        lambda: layer()(**batch(P=EYE)), fc.UnexpectedParameterError, "unexpected parameter 'P'"
    ),
    "learnable passed": Case(
        lambda: layer(qp(q=fc.Param(N, init=ONES)))(q=ONES),
        fc.UnexpectedParameterError,
        "'q' is a learnable",
    ),
    "indefinite constant": Case(
        lambda: layer(qp(P=-EYE)), fc.ConfigError, "solver: OSQPSolver cannot.*nonconvex_qp"
    ),
    "indefinite parameter": Case(
        lambda: full()(**full_values(P=indefinite())),
        fc.InputError,
        "'P' is not positive semidefinite.*OSQPSolver.* samples 2",
    ),
    "indefinite by a function": Case(
        lambda: layer(
            fc.Problem(N, lambda x, s: s * (x @ x), {"s": fc.Param()}, lower=0.0, upper=1.0)
        )(s=torch.tensor([1.0, -1.0]).double()),
        fc.InputError,
        "objective's Hessian is not positive semidefinite.* samples 1",
    ),
    "crossed bounds": Case(
        lambda: full()(**full_values(upper=-2 * ONES)), fc.SolveError, "lower exceeds upper"
    ),
    "empty set": Case(
        lambda: full()(**full_values(b=9 * ONES[:1])), fc.SolveError, "infeasible"
    ),
    "empty atom": Case(
        lambda: layer(
            fc.Problem(N, lambda x, c: x @ x - c @ x, {"c": fc.Param(N), "k": fc.Param()},
                       constraints=[fc.CappedSimplex(fc.Param(name="total"))])
        )(c=ONES, k=ONES[0], total=torch.tensor(9.0).double()),
        fc.SolveError,
        "CappedSimplex is an empty set",
    ),
    "unbounded": Case(
        lambda: layer(fc.QuadraticProgram(q=fc.Param(N), lower=-ONES))(q=-ONES),
        fc.SolveError,
        "samples 0",
    ),
    "warm start of another type": Case(
        lambda: layer()(**batch(), warm_start=ONES), fc.InputError, "warm_start is a Tensor"
    ),
    "warm start of another batch": Case(
        lambda: layer()(**batch(), warm_start=layer().solve(q=ONES)), fc.ShapeError, "warm_start"
    ),
}  # fmt: skip
DEFINITIONS = {
    "P not square": Case(lambda: qp(P=EYE[:2]), fc.ProblemError, r"P has shape \(2, 3\)"),
    "A without b": Case(lambda: qp(A=ONES[None]), fc.ProblemError, "A is given without b"),
    "NaN constant": Case(lambda: qp(lower=ONES * math.nan), fc.ProblemError, "lower contains NaN"),
    "inf constant": Case(lambda: qp(P=EYE * INF), fc.ProblemError, "P contains"),
    "integer constant": Case(lambda: qp(lower=ONES.long()), fc.ProblemError, "lower must be"),
    "names repeat": Case(
        lambda: qp(lower=fc.Param(N, name="q")), fc.ProblemError, "used twice: .*'q'"
    ),
    "nothing": Case(lambda: fc.QuadraticProgram(), fc.ProblemError, "number of variables"),
    "n": Case(lambda: fc.Problem(0, lambda x: x @ x), fc.ProblemError, "n is 0"),
    "no Param": Case(
        lambda: fc.Problem(N, lambda x: x @ x, {"c": ONES}), fc.ProblemError, r"params\['c'\]"
    ),
    "name x": Case(
        lambda: fc.Problem(N, lambda x: x @ x, {"x": fc.Param(N)}), fc.ProblemError, "'x'"
    ),
    "objective raises": Case(
        lambda: fc.Problem(N, lambda x: x @ ONES[:2]), fc.ProblemError, "objective raised"
    ),
    "objective of a batch": Case(
        lambda: fc.Problem(N, lambda x: x * x), fc.ProblemError, r"objective returned shape \(3,\)"
    ),
    "scalar inequality": Case(
        lambda: fc.Problem(N, lambda x: x @ x, inequality=lambda x: x.sum()),
        fc.ProblemError,
        "inequality returned shape",
    ),
    "undeclared": Case(
        lambda: fc.Problem(N, lambda x, c: x @ c), fc.ProblemError, "asks for 'c'.*not declare"
    ),
    "bound of wrong length": Case(
        lambda: fc.Problem(N, lambda x: x @ x, lower=ONES[:2]), fc.ProblemError, "lower has shape"
    ),
    "asserted and disproven": Case(
        lambda: fc.Problem(N, lambda x: x @ x, equality=lambda x: x[:1] ** 2, structure="qp"),
        fc.ProblemError,
        "structure='qp'",
    ),
    "param name": Case(
        lambda: layer(qp(q=fc.Param(N, name="a.b"))), fc.ConfigError, "'a.b' cannot be passed"
    ),
    "reserved": Case(
        lambda: layer(qp(q=fc.Param(N, init=ONES, name="solver"))), fc.ConfigError, "'solver' is"
    ),
    "callable of wrong shape": Case(
        lambda: layer(solver=lambda p: ONES)(**batch()), fc.ConfigError, r"shape \(3,\)"
    ),
    "callable of wrong type": Case(
        lambda: layer(solver=lambda p: None)(**batch()), fc.ConfigError, "returned NoneType"
    ),
    "callable with too few statuses": Case(
        lambda: layer(
            solver=lambda p: fc.Solution(0 * p.data.q, (fc.Status.OPTIMAL,))
        )(**batch()),
        fc.ConfigError,
        "status",
    ),
    "callable with duals of wrong shape": Case(
        lambda: layer(
            solver=lambda p: fc.Solution(
                0 * p.data.q, (fc.Status.OPTIMAL,) * B, fc.Duals(EYE, EYE, EYE, EYE)
            )
        )(**batch()),
        fc.ConfigError,
        "equality has shape",
    ),
}  # fmt: skip
ALL = {**CASES, **DEFINITIONS}


@pytest.mark.parametrize("name", ALL)
def test_bad_input_gets_the_error_of_its_class(name: str) -> None:
    case = ALL[name]
    with pytest.raises(case.error, match=case.names) as caught:
        case.call()
    assert isinstance(caught.value, fc.FoldcoreError)
    assert type(caught.value) not in (RuntimeError, AssertionError)


@pytest.mark.parametrize("name", ["NaN", "crossed bounds", "indefinite parameter"])
def test_policy_mask_turns_bad_samples_into_nan(name: str) -> None:
    changes = {
        "NaN": {"q": torch.tensor([[0.0] * N, [math.nan] * N]).double()},
        "crossed bounds": {"q": 0 * EYE[:2], "upper": torch.stack([ONES, -2 * ONES])},
        "indefinite parameter": {"q": 0 * EYE[:2], "P": torch.stack([EYE, -EYE])},
    }[name]
    problem = qp(P=fc.Param(N, N), lower=fc.Param(N), upper=fc.Param(N))
    values = {"P": EYE, "lower": -ONES, "upper": ONES, **changes}
    with pytest.warns(fc.SolveWarning, match="1 of 2 samples failed"):
        solution = layer(problem, on_failure="mask").solve(**values)
    assert solution.status[0] is fc.Status.OPTIMAL
    expected = {
        "NaN": fc.Status.INVALID_INPUT,
        "crossed bounds": fc.Status.INFEASIBLE,
        "indefinite parameter": fc.Status.NONCONVEX,
    }
    assert solution.status[1] is expected[name]
    assert solution.primal[0].isfinite().all()
    assert solution.primal[1].isnan().all()


def test_infinite_bounds_are_no_bad_input() -> None:
    values = full_values(lower=-INF * ONES, upper=INF * ONES)
    assert full()(**values).isfinite().all()


@pytest.mark.parametrize("rule", ["pgd", "newton"])
def test_double_backward_is_refused_not_wrong(rule: str) -> None:
    q = torch.zeros(N, dtype=torch.float64, requires_grad=True)
    x = layer(rule=rule)(q=q)
    (gradient,) = torch.autograd.grad(x.sum(), q, create_graph=True)
    torch.testing.assert_close(gradient, -ONES)
    with pytest.raises(fc.UnsupportedError, match="second derivative"):
        torch.autograd.grad(gradient.sum(), q, retain_graph=True)
    with pytest.raises(fc.UnsupportedError, match="second derivative"):
        gradient.sum().backward()
