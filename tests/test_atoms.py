"""Atoms: declaration, binding, projection, lowering and recognition of sets; terms with their prox."""

from __future__ import annotations

import copy
import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint, minimize
from torch import Tensor

from foldcore.atoms import (
    L1,
    AffineSet,
    Atom,
    Box,
    BoxHyperplane,
    CappedSimplex,
    FieldSpec,
    HalfSpace,
    Indicator,
    L1Ball,
    L2Ball,
    Regularizer,
    SetAtom,
    Simplex,
    recognise_set,
)
from foldcore.errors import ProblemError, UnsupportedError
from foldcore.param import Param, Sparse
from foldcore.problem.quadratic import QuadraticProgram
from foldcore.quadratic.data import QuadraticData

INF = float("inf")
N, BATCH = 4, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def full(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


# Each: the declared atom, values of its parameters for one sample, and the fields of its lowering
# that depend on a parameter (None: no lowering).
SETS: dict[str, tuple[SetAtom, dict[str, Tensor], set[str] | None]] = {
    "box of numbers": (Box(-0.5, 0.5), {}, set()),
    "box of params": (
        Box(Param(N), Param(N)),
        {"lower": full(-0.3, N), "upper": full(0.4, N)},
        {"lower", "upper"},
    ),
    "box of one number": (Box(None, Param(name="top")), {"top": full(0.2)}, {"upper"}),
    "hyperplane and box": (
        BoxHyperplane(Param(N), Param(), -1.0, Param(N)),
        {"a": normal(N, seed=3), "b": full(0.2), "upper": full(0.6, N)},
        {"A", "b", "upper"},
    ),
    "hyperplane": (BoxHyperplane(normal(N, seed=3), Param()), {"b": full(0.5)}, {"b"}),
    "simplex": (Simplex(), {}, set()),
    "simplex of a param": (Simplex(Param(name="budget")), {"budget": full(1.4)}, {"b"}),
    "capped simplex": (CappedSimplex(2.0), {}, set()),
    "capped simplex of params": (
        CappedSimplex(Param(), Param()),
        {"total": full(1.5), "cap": full(0.7)},
        {"b", "upper"},
    ),
    "capped simplex of caps": (
        CappedSimplex(2.0, Param(N)),
        {"cap": full(0.8, N) + 0.1 * normal(N)},
        {"upper"},
    ),
    "l1 ball": (L1Ball(Param()), {"radius": full(1.2)}, None),
    "l2 ball": (L2Ball(Param()), {"radius": full(0.8)}, {"quadratic_r"}),
    "l2 ball off centre": (
        L2Ball(0.8, Param(N)),
        {"center": normal(N, seed=4)},
        {"quadratic_q", "quadratic_r"},
    ),
    "l2 ball round one number": (L2Ball(0.8, 0.5), {}, set()),
    "affine": (AffineSet(normal(2, N), Param(2)), {"b": normal(2, seed=5)}, {"b"}),
    "affine of params": (
        AffineSet(Param(2, N), Param(2)),
        {"A": normal(2, N, seed=6), "b": normal(2, seed=5)},
        {"A", "b"},
    ),
    "half-space": (
        HalfSpace(Param(N), Param()),
        {"a": normal(N, seed=7), "b": full(-0.3)},
        {"G", "h"},
    ),
}
each_set = pytest.mark.parametrize("name", SETS)
LOWERED = [name for name, (_, _, varying) in SETS.items() if varying is not None]


def per_sample(values: dict[str, Tensor]) -> dict[str, Tensor]:
    factors = 1 + 0.1 * torch.arange(BATCH, dtype=torch.float64)
    return {k: factors.reshape(-1, *([1] * v.ndim)) * v for k, v in values.items()}


def bound(name: str, *, batched: bool = False) -> SetAtom:
    atom, values, _ = SETS[name]
    values = per_sample(values) if batched else values
    return atom.bind({**values, **atom.constants("set0")}, "set0")


def one_sample(data: QuadraticData, i: int) -> QuadraticData:
    """Return sample i, from the number of dimensions that each field has for one sample."""
    dims = {"A": 2, "G": 2, "quadratic_P": 3, "quadratic_q": 2}
    fields = {
        name: value[i] if value.ndim > dims.get(name, 1) else value for name, value in data.items()
    }
    return QuadraticData(data.n, **fields)


def nearest_by_slsqp(y: Tensor, data: QuadraticData) -> Tensor:
    """Return the nearest point of lowered data by a general NLP solver."""
    array = {name: value.detach().numpy() for name, value in data.items()}
    constraints: list[Any] = []
    if "A" in array:
        constraints.append(LinearConstraint(array["A"], array["b"], array["b"]))
    if "G" in array:
        constraints.append(LinearConstraint(array["G"], -np.inf, array["h"]))
    if "quadratic_r" in array:
        P, q, r = array["quadratic_P"][0], array["quadratic_q"][0], array["quadratic_r"]
        constraints.append(
            NonlinearConstraint(
                lambda x: x @ P @ x / 2 + q @ x, -np.inf, r, jac=lambda x: (P @ x + q)[None]
            )
        )
    bounds = Bounds(array.get("lower", -np.inf), array.get("upper", np.inf))
    target = y.numpy()
    found = minimize(
        lambda x: ((x - target) ** 2).sum() / 2, 0.3 * np.ones(data.n), jac=lambda x: x - target,
        bounds=bounds, constraints=constraints, method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    )  # fmt: skip
    return torch.from_numpy(found.x)


# Sets: projection and lowering describe one and the same set


@pytest.mark.parametrize("name", LOWERED)
@pytest.mark.parametrize("batched", [False, True])
def test_projection_is_the_nearest_point_of_the_lowering(name: str, batched: bool) -> None:
    atom, y = bound(name, batched=batched), 1.5 * normal(BATCH, N, seed=1)
    x = atom.project(y)
    data = atom.rows(N)
    for i in range(BATCH):
        expected = nearest_by_slsqp(y[i], one_sample(data, i))
        torch.testing.assert_close(x[i], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOWERED)
@pytest.mark.parametrize("batched", [False, True])
def test_declared_rows_bind_to_rows(name: str, batched: bool) -> None:
    atom, _, varying = SETS[name]
    template = atom.declared_rows(N)
    assert set(template.varying) == varying
    data = bound(name, batched=batched).rows(N)
    values = {field: value for field, value in data.items() if field in (varying or ())}
    again = template.bind_data({**template.constants, **values})
    assert [field for field, _ in again.items()] == [field for field, _ in data.items()]
    for field, value in data.items():
        torch.testing.assert_close(getattr(again, field), value, rtol=0, atol=0)
    assert atom.polyhedral == (data.n_quadratic == 0)


def test_constants_of_a_template_can_be_copied_in_place() -> None:
    template = Box(-1.0, 1.0).declared_rows(N)
    for constant in template.constants.values():
        constant.copy_(torch.arange(N))  # a broadcast view would refuse


def test_l1_ball_has_no_rows() -> None:
    assert not L1Ball(1.0).has_rows
    assert not L1Ball(1.0).polyhedral
    for lower in (L1Ball(1.0).rows, L1Ball(1.0).declared_rows):
        with pytest.raises(UnsupportedError, match=r"L1Ball: .* 2\^4 linear rows"):
            lower(N)
    assert all(atom.has_rows for atom, _, varying in SETS.values() if varying is not None)


@each_set
def test_shared_data_stays_shared_and_batched_data_goes_sample_by_sample(name: str) -> None:
    atom, values, varying = SETS[name]
    y = normal(BATCH, N, seed=2)
    each = per_sample(values)
    whole = bound(name, batched=True).project(y)
    for i in range(BATCH):
        one = atom.bind({**{k: v[i] for k, v in each.items()}, **atom.constants("s")}, "s")
        torch.testing.assert_close(one.project(y[i : i + 1])[0], whole[i], rtol=1e-12, atol=1e-12)
    if varying is not None:
        dims = {"A": 2, "G": 2, "quadratic_P": 3, "quadratic_q": 2}
        for field, value in bound(name).rows(N).items():
            assert value.ndim == dims.get(field, 1), field
        for field, value in bound(name, batched=True).rows(N).items():
            assert (value.ndim > dims.get(field, 1)) == (field in varying), field


@each_set
def test_gradients_reach_every_parameter_through_projection_and_rows(name: str) -> None:
    atom, values, varying = SETS[name]
    y, names = 1.5 * normal(BATCH, N, seed=1), list(values)

    def project(*leaves: Tensor) -> Tensor:
        inputs = dict(zip(names, leaves, strict=True))
        return atom.bind({**inputs, **atom.constants("s")}, "s").project(y)

    def lower(*leaves: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(names, leaves, strict=True))
        data = atom.bind({**inputs, **atom.constants("s")}, "s").rows(N)
        return tuple(value for _, value in data.items() if value.requires_grad)

    for given in (values, per_sample(values)):
        leaves = [v.clone().requires_grad_() for v in given.values()]
        if leaves:
            torch.autograd.gradcheck(project, leaves, eps=1e-5, atol=1e-8, rtol=1e-7)
        if leaves and varying is not None:
            torch.autograd.gradcheck(lower, leaves, eps=1e-5, atol=1e-8, rtol=1e-7)


def test_prepare_factors_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = torch.linalg.qr

    def counting(matrix: Tensor) -> Any:
        calls.append(matrix.ndim)
        return original(matrix)

    atom = bound("affine")
    monkeypatch.setattr(torch.linalg, "qr", counting)
    project = atom.prepare()
    y = normal(BATCH, N)
    torch.testing.assert_close(project(y), atom.project(y))
    project(y)
    assert calls == [2, 2], "once by prepare, once by project"


def test_only_samples_of_dependent_rows_fail_to_be_projected() -> None:
    assert all(bound(name).prepare().failed is None for name in SETS)
    A, b = normal(BATCH, 2, N), normal(BATCH, 2, seed=1)
    A[2, 1] = -3 * A[2, 0]
    atom = AffineSet(Param(2, N), Param(2)).bind({"A": A, "b": b}, "s")
    failed = atom.prepare().failed
    assert failed is not None
    assert failed.tolist() == [i == 2 for i in range(BATCH)]
    for project in (atom.project, lambda y: Indicator(atom).prox(y, 1.0)):
        assert project(normal(BATCH, N)).isnan().all(-1).tolist() == failed.tolist()
    shared = AffineSet(Param(2, N), Param(2)).bind({"A": A[2], "b": b}, "s")
    with pytest.raises(ProblemError, match=r"^A: rows 1 depend linearly"):
        shared.prepare()


@each_set
def test_float32_stays_float32(name: str) -> None:
    atom, values, varying = SETS[name]
    single = {k: v.float() for k, v in {**values, **atom.constants("s")}.items()}
    one = atom.bind(single, "s")
    assert one.project(normal(BATCH, N).float()).dtype == torch.float32
    if varying is not None:
        assert {value.dtype for _, value in one.rows(N).items()} <= {torch.float32}


def test_numbers_serve_any_dtype_unbound() -> None:
    y = normal(BATCH, N).float()
    for atom in (Box(-1, 1), Simplex(), CappedSimplex(1.0), L1Ball(1), L2Ball(1.0, 0.5)):
        assert atom.project(y).dtype == torch.float32


# Declaration


def test_params_constants_and_binding_by_name() -> None:
    top, b = Param(N, name="top"), Param()
    atom = BoxHyperplane(full(1.0, N), b, None, top)
    assert atom.params("set0") == {"b": b, "top": top}
    assert list(atom.constants("set0")) == ["set0.a"]
    values = {"b": full(1.0), "top": full(0.5, N), "set0.a": full(2.0, N), "other": full(0.0)}
    one = atom.bind(values, "set0")
    assert one.a is values["set0.a"]
    assert one.upper is values["top"]
    assert one.lower is None
    assert one.params("set0") == {}


def test_numbers_become_float64() -> None:
    atom = CappedSimplex(2, 1.0)
    assert isinstance(atom.total, Tensor)
    assert atom.total.dtype == torch.float64
    assert list(atom.constants("set1")) == ["set1.total", "set1.cap"]


def test_one_name_for_two_params_is_an_error() -> None:
    with pytest.raises(ProblemError, match=r"Box \(set3\): upper uses the parameter name 'c'"):
        Box(Param(N, name="c"), Param(N, name="c")).params("set3")
    same = Param(N, name="c")
    assert Box(same, same).params("set3") == {"c": same}


def test_may_be_infinite() -> None:
    atom = BoxHyperplane(Param(N), Param(), Param(N, name="floor"))
    assert [atom.may_be_infinite(name) for name in ("floor", "a", "b", "upper")] == [
        True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("atom", "message"),
    [
        (Box(full(0.0, 3)), r"Box: lower has shape \(3,\), expected \(4,\) or \(\)"),
        (Box(None, Param(2, N)), r"Box: upper has shape \(2, 4\), expected \(4,\) or \(\)"),
        (Simplex(full(1.0, 1)), r"Simplex: total has shape \(1,\), expected \(\)"),
        (CappedSimplex(Param(N)), r"CappedSimplex: total has shape \(4,\), expected \(\)"),
        (BoxHyperplane(full(1.0), 1.0), r"BoxHyperplane: a has shape \(\), expected \(4,\)"),
        (L1Ball(Param(2)), r"L1Ball: radius has shape \(2,\)"),
        (L2Ball(1.0, Param(3)), r"L2Ball: center has shape \(3,\), expected \(4,\)"),
        (AffineSet(normal(2, 3), normal(2)), r"AffineSet: A has shape \(2, 3\), expected \(2, 4\)"),
        (AffineSet(normal(2, N), Param(3)), r"AffineSet: b has shape \(3,\), expected \(2,\)"),
        (AffineSet(full(1.0, 2, N), Param(2)), r"A: rows 1 depend linearly"),
        (HalfSpace(Param(N), Param(1)), r"HalfSpace: b has shape \(1,\), expected \(\)"),
        (L1(Param(3)), r"L1: weight has shape \(3,\), expected \(4,\) or \(\)"),
        (L1(Param(N), normal(3, N)), r"L1: weight has shape \(4,\), expected \(3,\) or \(\)"),
        (L1(1.0, normal(3, 5)), r"L1: operator has shape \(3, 5\), expected \(3, 4\)"),
        (L1(-1.0), r"L1: weight has negative entries"),
        (Box(float("nan")), r"Box: lower contains NaN"),
        (Simplex(INF), r"Simplex: total contains NaN or inf"),
        (Box(torch.zeros(N, dtype=torch.int64)), r"Box: lower must be floating point, got torch.int64"),
        (Box(full(0.0, N).requires_grad_()), r"Box: lower needs a gradient .*lower=Param\(4,\)"),
    ],
)  # fmt: skip
def test_check_names_atom_and_field(atom: Atom, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        atom.check(N)


def test_check_accepts_what_is_right() -> None:
    for atom, _, _ in SETS.values():
        atom.check(N)
    for good in (Box(-INF, INF), HalfSpace(full(1.0, N), INF), L1(Param(3), Param(3, N)), L1(0.0)):
        good.check(N)


def test_wrong_kinds_and_unbound_params_are_errors() -> None:
    with pytest.raises(ProblemError, match="Simplex: total is a str, expected a number"):
        Simplex("one")  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="Simplex: total is a NoneType"):
        Simplex(None)  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match=r"Simplex: total is a Param without a value. Call bind"):
        Simplex(Param()).project(normal(1, N))


@each_set
def test_atoms_are_copied_and_pickled(name: str) -> None:
    y, original = normal(BATCH, N), bound(name)
    for twin in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert torch.equal(twin.project(y), original.project(y))


# Emptiness


@pytest.mark.parametrize(
    ("atom", "n", "expected"),
    [
        (Box(0.0, 1.0), None, False),
        (Box(), None, False),
        (Box(full(1.0, 2), full(1.0, 2)), None, False),
        (Box(1.0, 0.0), None, True),
        (Box(INF, None), None, True),
        (Box(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), full(1.0, 2)), None, [True, False]),
        (Simplex(-1.0), None, True),
        (Simplex(torch.tensor([0.0, -1.0])), None, [False, True]),
        (CappedSimplex(2.0, full(0.9, 2)), 2, True),
        (CappedSimplex(2.0, 0.9), 2, True),
        (CappedSimplex(2.0, 0.9), None, False),
        (CappedSimplex(1.0, 0.1), 10, False),
        (CappedSimplex(1.0, full(0.1, 10)), 10, False),
        (CappedSimplex(0.0, -1.0), None, True),
        (CappedSimplex(torch.tensor([1.0, 5.0]), torch.tensor([[1.0], [1.0]])), 4, [False, True]),
        (BoxHyperplane(torch.tensor([1.0, -2.0]), 1.1, 0.0, 1.0), None, True),
        (BoxHyperplane(torch.tensor([1.0, -2.0]), 1.0, 0.0, 1.0), None, False),
        (BoxHyperplane(torch.tensor([1.0, -2.0]), -2.1, 0.0, 1.0), None, True),
        (BoxHyperplane(torch.tensor([1.0, -2.0]), -2.1, 0.0, None), None, False),
        (BoxHyperplane(torch.tensor([0.0, 0.0]), 1.0, None, None), None, True),
        (BoxHyperplane(torch.tensor([0.0, 1.0]), 1.0, -INF, INF), None, False),
        (BoxHyperplane(full(1.0, 2), 1.0, 2.0, 1.0), None, True),
        (L1Ball(-0.1), None, True),
        (L2Ball(torch.tensor([0.0, -0.1])), None, [False, True]),
        (AffineSet(normal(2, N), normal(2)), None, False),
        (HalfSpace(full(0.0, N), -1.0), None, True),
        (HalfSpace(full(0.0, N), 0.0), None, False),
        (HalfSpace(full(1.0, N), -INF), None, True),
    ],
)
def test_empty(atom: SetAtom, n: int | None, expected: bool | list[bool]) -> None:
    found = atom.empty(n)
    assert found.dtype == torch.bool
    assert found.tolist() == expected


# Terms


def test_l1_value_and_prox_by_hand() -> None:
    y = torch.tensor([[3.0, -0.5, -2.0], [0.2, 1.5, 0.0]], dtype=torch.float64)
    term = L1(torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64))
    assert term.value(y).tolist() == [4.5, 1.7]
    assert term.prox(y, 1.0).tolist() == [[2.0, 0.0, -1.5], [0.0, 0.5, 0.0]]
    step = torch.tensor([1.0, 0.5], dtype=torch.float64)
    assert term.prox(y, step).tolist() == [[2.0, 0.0, -1.5], [0.0, 1.0, 0.0]]


def test_l1_prox_meets_its_optimality_condition() -> None:
    """x = prox(y) if and only if (y - x)/step is a subgradient of the term at x."""
    y, weight, step = 2 * normal(BATCH, 50), normal(50, seed=1).abs(), 0.7
    x = L1(weight).prox(y, step)
    pull = (y - x) / step
    torch.testing.assert_close(pull[x != 0], (weight * x.sign())[x != 0], rtol=1e-12, atol=1e-12)
    assert bool((pull.abs() <= weight + 1e-12)[x == 0].all())
    assert bool((x == 0).any())


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        (L1(Param()), ()),
        (L1(Param()), (BATCH,)),
        (L1(Param(N)), (N,)),
        (L1(Param(N)), (BATCH, N)),
    ],
)
def test_l1_prox_gradients(declared: L1, shape: tuple[int, ...]) -> None:
    y, weight = normal(BATCH, N).requires_grad_(), full(0.4, *shape) + 0.1 * normal(*shape).abs()

    def prox(y: Tensor, weight: Tensor, step: Tensor) -> Tensor:
        return declared.bind({"weight": weight}, "regularizer0").prox(y, step)

    leaves = (y, weight.requires_grad_(), full(0.8, BATCH).requires_grad_())
    assert torch.autograd.gradcheck(prox, leaves, eps=1e-5, atol=1e-8, rtol=1e-7)
    assert float((prox(*leaves) == 0).sum()) > 0


@pytest.mark.parametrize("weight", [full(0.7), full(0.7, 3), full(0.7, BATCH, 3)])
@pytest.mark.parametrize("operator", [normal(3, N, seed=1), normal(BATCH, 3, N, seed=1)])
def test_l1_of_an_operator(weight: Tensor, operator: Tensor) -> None:
    term, x = L1(weight, operator), normal(BATCH, N)
    image = (operator @ x.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(term.image(x), image)
    torch.testing.assert_close(term.value(x), 0.7 * image.abs().sum(-1))
    rows, weights = term.absolute_terms(N)
    assert rows is operator
    assert weights.shape[-1] == 3
    assert term.dual_bound() is weight
    with pytest.raises(UnsupportedError, match=r"L1: .*dual proximal-gradient"):
        term.prox(x, 1.0)


def test_l1_without_operator_lowers_to_the_identity() -> None:
    rows, weights = L1(0.5).absolute_terms(N)
    assert torch.equal(rows, torch.eye(N, dtype=torch.float64))
    assert weights.tolist() == [0.5] * N
    x = normal(BATCH, N)
    assert L1(0.5).image(x) is x
    batched = L1(Param()).bind({"weight": full(0.5, BATCH)}, "regularizer0")
    assert batched.value(x).shape == (BATCH,)
    assert batched.absolute_terms(N)[1].shape == (BATCH, N)


def test_a_regularizer_that_knows_nothing_says_so() -> None:
    class Silent(Regularizer):
        specs: ClassVar[dict[str, FieldSpec]] = {}

    for call in (
        lambda: Silent().value(normal(1, N)),
        lambda: Silent().prox(normal(1, N), 1.0),
        lambda: Silent().absolute_terms(N),
    ):
        with pytest.raises(UnsupportedError, match="Silent"):
            call()


# Recognition


def program(**fields: Any) -> QuadraticProgram:
    return QuadraticProgram(P=torch.eye(N), q=Param(N, name="c"), **fields)


ROW, ROWS = {"A": normal(1, N), "b": full(0.3, 1)}, {"A": normal(2, N), "b": full(0.3, 2)}
CUT = {"G": normal(1, N), "h": Param(1)}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, Box),
        ({"lower": -0.5, "upper": Param(N)}, Box),
        (ROW, BoxHyperplane),
        ({**ROW, "b": Param(1), "lower": -0.5}, BoxHyperplane),
        ({**ROW, "A": Param(1, N), "lower": -0.5, "upper": 0.5}, BoxHyperplane),
        (ROWS, AffineSet),
        ({**ROWS, "A": Param(2, N), "b": Param(2)}, AffineSet),
        (CUT, HalfSpace),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_recognised_sets_project_to_the_nearest_point(
    fields: dict[str, Any], kind: type[SetAtom], batched: bool
) -> None:
    template = program(**fields)
    build = recognise_set(template)
    assert build is not None
    assert pickle.loads(pickle.dumps(build)) is build
    lead = (BATCH,) if batched else ()
    samples = {
        name: 0.5 + 0.3 * normal(*lead, *param.shape) for name, param in template.params.items()
    }
    data = template.bind_data({**template.constants, **samples})
    atom = build(data)
    assert type(atom) is kind
    y = 1.5 * normal(BATCH, N, seed=1)
    x = atom.prepare()(y)
    set_only = QuadraticData(N, **{k: v for k, v in data.items() if k not in ("P", "q")})
    for i in range(BATCH):
        expected = nearest_by_slsqp(y[i], one_sample(set_only, i))
        torch.testing.assert_close(x[i], expected, rtol=1e-6, atol=1e-6)
    assert [k for k, _ in atom.rows(N).items()] == [k for k, _ in set_only.items()]


@pytest.mark.parametrize(
    "fields",
    [
        {**ROWS, "lower": 0.0},
        {**CUT, "upper": 1.0},
        {**CUT, **ROW},
        {"G": normal(2, N), "h": full(1.0, 2)},
        {
            "quadratic_P": torch.eye(N).unsqueeze(0),
            "quadratic_q": torch.zeros(1, N),
            "quadratic_r": torch.ones(1),
        },
        {
            "A": Sparse(torch.arange(2), torch.arange(2), (2, N), Param(2, name="v")),
            "b": full(0.3, 2),
        },
    ],
)
def test_other_sets_are_not_recognised(fields: dict[str, Any]) -> None:
    assert recognise_set(program(**fields)) is None


def test_one_sparse_row_is_recognised() -> None:
    entries = Sparse(torch.zeros(2).long(), torch.tensor([0, 2]), (1, N), Param(2, name="v"))
    template = program(A=entries, b=full(0.3, 1), lower=-0.5)
    build = recognise_set(template)
    assert build is not None
    values = {**template.constants, "c": full(0.0, N), "v": normal(BATCH, 2).requires_grad_()}
    atom = build(template.bind_data(values))
    x = atom.project(normal(BATCH, N))
    torch.testing.assert_close((x[:, [0, 2]] * values["v"]).sum(-1), full(0.3, BATCH))
    (grad,) = torch.autograd.grad((x * normal(BATCH, N, seed=1)).sum(), values["v"])
    assert float(grad.abs().min()) > 0


def test_zero_rows_count_as_absent() -> None:
    build = recognise_set(program(A=torch.zeros(0, N), b=torch.zeros(0), upper=0.0))
    assert build is not None
    y = normal(BATCH, N)
    torch.testing.assert_close(
        build(QuadraticData(N, upper=full(0.0, N))).project(y), y.clamp(max=0)
    )
