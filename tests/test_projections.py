"""Projections against independent oracles, and their gradients against central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foldcore.atoms.projections import (
    AffineProjector,
    project_box,
    project_box_hyperplane,
    project_capped_simplex,
    project_half_space,
    project_l1_ball,
    project_l2_ball,
    project_simplex,
)
from foldcore.errors import ProblemError

INF = float("inf")
BATCH, N = 4, 6
Function = Callable[..., Tensor]


def project_affine(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
    return AffineProjector(A, b)(y)


def real(*values: Any) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def signed_normal() -> Tensor:
    """Return a hyperplane's normal with both signs and a zero."""
    a = normal(N, seed=7)
    a[2] = 0.0
    return a


def half_open() -> tuple[Tensor, Tensor]:
    """Return bounds of which some are infinite."""
    lower, upper = -torch.ones(N, dtype=torch.float64), 0.5 * torch.ones(N, dtype=torch.float64)
    lower[1], upper[3] = -INF, INF
    return lower, upper


# Each: a projection and the data of one sample.
CASES: dict[str, tuple[Function, list[Tensor]]] = {
    "box": (project_box, list(half_open())),
    "box_hyperplane": (project_box_hyperplane, [signed_normal(), real(0.7), *half_open()]),
    "box_hyperplane_pinned": (
        project_box_hyperplane,
        [signed_normal(), real(0.3), *(torch.where(signed_normal() > 1, 0.2, b) for b in half_open())],
    ),
    "hyperplane": (project_box_hyperplane, [signed_normal(), real(0.7)]),
    "simplex": (project_simplex, [real(1.3)]),
    "capped_simplex": (project_capped_simplex, [real(2.0), torch.full((N,), 0.6).double()]),
    "capped_simplex_one_cap": (project_capped_simplex, [real(2.0), real(0.6)]),
    "l1_ball": (project_l1_ball, [real(1.5)]),
    "l2_ball": (project_l2_ball, [real(1.5), normal(N, seed=8)]),
    "l2_ball_at_zero": (project_l2_ball, [real(1.5)]),
    "half_space": (project_half_space, [signed_normal(), real(-0.3)]),
    "affine": (project_affine, [normal(2, N, seed=9), normal(2, seed=10)]),
}  # fmt: skip
each_case = pytest.mark.parametrize("name", CASES)


def batched(data: Sequence[Tensor]) -> list[Tensor]:
    """Return slightly different data for each sample; infinities stay."""
    scales = 1 + 0.05 * torch.arange(BATCH, dtype=torch.float64)
    return [scales.reshape(-1, *([1] * d.ndim)) * d for d in data]


def as_columns(name: str, data: Sequence[Tensor]) -> list[Tensor]:
    """Return batched data as the functions take it: a batched number in place of a vector is (B, 1)."""
    if name == "capped_simplex_one_cap":
        return [data[0], data[1].unsqueeze(-1)]
    return list(data)


def bisection(y: Tensor, a: Tensor, b: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the projection of one point on box and hyperplane by bisection on the multiplier."""
    low, high = -1e6, 1e6
    for _ in range(200):
        tau = (low + high) / 2
        x = torch.minimum(torch.maximum(y - tau * a, lower), upper)
        if float((a * x).sum() - b) > 0:
            low = tau
        else:
            high = tau
    return x


# Values


@pytest.mark.parametrize("n", [1, 2, 7, 40, 300])
@pytest.mark.parametrize("seed", range(3))
def test_box_hyperplane_agrees_with_bisection(n: int, seed: int) -> None:
    y, a = 3 * normal(BATCH, n, seed=seed), normal(n, seed=seed + 100)
    lower = -normal(n, seed=seed + 200).abs()
    upper = lower + normal(n, seed=seed + 300).abs() + 0.1
    if n > 4:
        a[0], lower[1], upper[2], lower[3], upper[3] = 0.0, -INF, INF, -INF, INF
    inner = lower.clamp(min=-3) + 0.3 * (upper.clamp(max=3) - lower.clamp(min=-3))
    b = (a * inner).sum()
    x = project_box_hyperplane(y, a, b, lower, upper)
    expected = torch.stack([bisection(row, a, b, lower, upper) for row in y])
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((a * x).sum(-1), b.expand(BATCH), rtol=1e-12, atol=1e-12)
    assert bool(((x >= lower) & (x <= upper)).all())


def test_hand_cases() -> None:
    y = real([[3.0, 1.0, -1.0]])
    cases = [
        (project_box(y, -0.5, 2.0), [2.0, 1.0, -0.5]),
        (project_box(y, None, None), [3.0, 1.0, -1.0]),
        (project_simplex(y, 1.0), [1.0, 0.0, 0.0]),
        (project_simplex(y, 3.0), [2.5, 0.5, 0.0]),
        (project_capped_simplex(y, 2.0, 1.0), [1.0, 1.0, 0.0]),
        (project_capped_simplex(y, 2.4, 1.5), [1.5, 0.9, 0.0]),
        (project_l1_ball(y, 2.0), [2.0, 0.0, 0.0]),
        (project_l1_ball(y, 3.5), [2.5, 0.5, -0.5]),
        (project_l1_ball(y, 5.0), [3.0, 1.0, -1.0]),
        (project_l2_ball(y - real([0.0, 1.0, -1.0]), 1.0), [1.0, 0.0, 0.0]),
        (project_l2_ball(y, 2.0, real([1.0, 1.0, -1.0])), [3.0, 1.0, -1.0]),
        (project_half_space(y, real([1.0, 1.0, 0.0]), 2.0), [2.0, 0.0, -1.0]),
        (project_half_space(y, real([1.0, 1.0, 0.0]), INF), [3.0, 1.0, -1.0]),
        (project_affine(y, real([[1.0, 1.0, 0.0]]), real([2.0])), [2.0, 0.0, -1.0]),
        (project_box_hyperplane(y, real([1.0, -1.0, 0.0]), 0.0), [2.0, 2.0, -1.0]),
        (project_box_hyperplane(y, real([1.0, -1.0, 0.0]), 0.0, None, 1.5), [1.5, 1.5, -1.0]),
    ]  # fmt: skip
    for i, (found, expected) in enumerate(cases):
        torch.testing.assert_close(found, real([expected]), rtol=1e-14, atol=1e-14, msg=f"{i}")


@each_case
@pytest.mark.parametrize("scale", [0.3, 3.0, 1e4])
def test_no_point_of_the_set_is_nearer(name: str, scale: float) -> None:
    """x = P(y) if and only if (y - x)ᵀ(z - x) <= 0 for every z of the set."""
    project, data = CASES[name]
    y = scale * normal(BATCH, N, seed=1)
    x = project(y, *data)
    for seed in range(20):
        z = project(3 * normal(BATCH, N, seed=seed + 50), *data)
        product = ((y - x) * (z - x)).sum(-1)
        rounding = (y - x).norm(dim=-1) * (scale + (z - x).norm(dim=-1))
        assert bool((product <= 1e-14 * (1 + rounding)).all())


points = st.lists(st.floats(-50, 50), min_size=2 * N, max_size=2 * N)


@each_case
@settings(max_examples=30, deadline=None, derandomize=True)
@given(values=points)
def test_idempotent_and_nonexpansive(name: str, values: list[float]) -> None:
    project, data = CASES[name]
    y = torch.tensor(values, dtype=torch.float64).reshape(2, N)
    x = project(y, *data)
    torch.testing.assert_close(project(x, *data), x, rtol=1e-12, atol=1e-12)
    assert float((x[0] - x[1]).norm()) <= float((y[0] - y[1]).norm()) * (1 + 1e-12) + 1e-12


def test_a_point_of_the_set_next_to_an_absent_bound_stays() -> None:
    """The root is at a breakpoint whose neighbour stands for infinity, up to rounding."""
    project, data = CASES["box_hyperplane_pinned"]
    y = torch.tensor([[5.0, -22.0, -1.0, 0.0, 0.0, 25.0]], dtype=torch.float64)
    x = project(y, *data)
    torch.testing.assert_close(project(x, *data), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("big", [1e6, 1e12, 1e100])
def test_bounds_that_nobody_reaches_cost_no_digits(big: float) -> None:
    y, a = normal(BATCH, 50), normal(50, seed=1)
    near = project_box_hyperplane(y, a, 0.4, -1.0, None)
    upper = torch.full((50,), big, dtype=torch.float64)
    x = project_box_hyperplane(y, a, 0.4, -1.0, upper)
    torch.testing.assert_close(x, near, rtol=1e-13, atol=1e-13)


def test_many_variables_take_no_square_of_memory() -> None:
    n = 200_000  # n² entries would be 320 GB
    x = project_simplex(normal(1, n), 3.0)
    assert abs(float(x.sum()) - 3.0) < 1e-10


# Gradients


def gradients_hold(project: Function, y: Tensor, data: Sequence[Tensor], columns: str = "") -> bool:
    leaves = [t.clone().requires_grad_() for t in (y, *data)]
    finite = [torch.isfinite(t) for t in leaves]

    def run(*free: Tensor) -> Tensor:
        # A central difference of an infinite bound is meaningless, so infinities are put in place.
        full = [
            leaf.detach().masked_scatter(mask, value)
            for leaf, mask, value in zip(leaves, finite, free, strict=True)
        ]
        return project(full[0], *as_columns(columns, full[1:]))

    free = [t.detach()[mask].requires_grad_() for t, mask in zip(leaves, finite, strict=True)]
    return torch.autograd.gradcheck(
        run, free, eps=1e-5, atol=1e-8, rtol=1e-7, raise_exception=False
    )


@each_case
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_gradients_of_shared_data(name: str, scale: float) -> None:
    project, data = CASES[name]
    moved = _move_pinned_together(name, project)
    assert gradients_hold(moved, scale * normal(BATCH, N, seed=2), data)


@each_case
def test_gradients_of_batched_data(name: str) -> None:
    project, data = CASES[name]
    moved = _move_pinned_together(name, project)
    assert gradients_hold(moved, 2 * normal(BATCH, N, seed=3), batched(data), columns=name)


def _move_pinned_together(name: str, project: Function) -> Function:
    """Let the lower bound of a pinned variable follow the upper one, lest differences empty the set."""
    if not name.endswith("pinned"):
        return project
    pinned = signed_normal() > 1

    def moved(y: Tensor, a: Tensor, b: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return project(y, a, b, torch.where(pinned, upper, lower), upper)

    return moved


@pytest.mark.parametrize("name", ["box_hyperplane", "l1_ball", "l2_ball", "half_space", "affine"])
def test_second_derivatives(name: str) -> None:
    project, data = CASES[name]
    y = (2 * normal(2, N, seed=4)).requires_grad_()
    first = data[0].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y, d: project(y, d, *data[1:]), (y, first))


def test_gradients_hold_catches_planted_faults() -> None:
    def multiplier_without_gradient(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        x = project_box_hyperplane(y, a, b)
        return y + (x - y).detach()

    def slightly_wrong(y: Tensor, radius: Tensor) -> Tensor:
        x = project_simplex(y, radius)
        return x + 1e-6 * (y - y.detach())

    y = normal(BATCH, N)
    assert not gradients_hold(multiplier_without_gradient, y, [signed_normal(), real(0.7)])
    assert not gradients_hold(slightly_wrong, y, [real(1.0)])


@each_case
def test_batch_equals_singles_and_shared_equals_batched(name: str) -> None:
    project, data = CASES[name]
    y = 2 * normal(BATCH, N, seed=5)
    each = batched(data)
    whole = project(y, *as_columns(name, each))
    for i in range(BATCH):
        single = project(y[i : i + 1], *(d[i] for d in each))
        torch.testing.assert_close(whole[i : i + 1], single, rtol=1e-12, atol=1e-13)

    cotangent = normal(BATCH, N, seed=6)
    shared = [d.clone().requires_grad_() for d in data]
    copies = [d.expand(BATCH, *d.shape).clone().requires_grad_() for d in data]
    (project(y, *shared) * cotangent).sum().backward()
    (project(y, *as_columns(name, copies)) * cotangent).sum().backward()
    for one, many in zip(shared, copies, strict=True):
        assert one.grad is not None
        assert many.grad is not None
        torch.testing.assert_close(one.grad, many.grad.sum(0), rtol=1e-12, atol=1e-13)


@each_case
def test_dtype_is_kept(name: str) -> None:
    project, data = CASES[name]
    y = 2 * normal(BATCH, N, seed=5)
    exact = project(y, *data)
    single = project(y.float(), *(d.float() for d in data))
    assert exact.dtype == torch.float64
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, exact.float(), rtol=1e-5, atol=1e-5)


def test_numbers_do_not_promote() -> None:
    y = normal(BATCH, N).float()
    for x in (
        project_box(y, 0.0, 1.0),
        project_simplex(y, 1.0),
        project_capped_simplex(y, 1.0, 0.5),
        project_l1_ball(y, 1.0),
        project_l2_ball(y, 1.0, 0.5),
        project_simplex(y, real(1.0)),
    ):
        assert x.dtype == torch.float32


# Bounds: who gets the gradient


def box_gradients(y: list[float], lower: Any, upper: Any) -> tuple[Tensor, ...]:
    leaves = [real([y]).requires_grad_(), *(real(t).requires_grad_() for t in (lower, upper))]
    return torch.autograd.grad(project_box(*leaves).sum(), leaves)


def test_a_strictly_active_bound_gets_the_whole_gradient() -> None:
    to_y, to_lower, to_upper = box_gradients([-2.0, 0.5, 2.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert to_y.tolist() == [[0.0, 1.0, 0.0]]
    assert to_lower.tolist() == [1.0, 0.0, 0.0]
    assert to_upper.tolist() == [0.0, 0.0, 1.0]


def test_coinciding_bounds_hide_the_point() -> None:
    to_y, to_lower, to_upper = box_gradients([-2.0, 0.5, 2.0], [0.5] * 3, [0.5] * 3)
    assert to_y.tolist() == [[0.0, 0.0, 0.0]], "even where y lies on both"
    assert to_lower.tolist() == [1.0, 0.0, 0.0]
    assert to_upper.tolist() == [0.0, 1.0, 1.0]


def test_infinite_bounds_get_exactly_zero() -> None:
    to_y, to_lower, to_upper = box_gradients([-2.0, 0.5], [-INF, -INF], [INF, INF])
    assert to_y.tolist() == [[1.0, 1.0]]
    assert to_lower.tolist() == [0.0, 0.0]
    assert to_upper.tolist() == [0.0, 0.0]

    y, (lower, upper) = normal(BATCH, N).requires_grad_(), half_open()
    leaves = [y, *(t.clone().requires_grad_() for t in (signed_normal(), lower, upper))]
    x = project_box_hyperplane(leaves[0], leaves[1], 0.7, leaves[2], leaves[3])
    grads = torch.autograd.grad((x * normal(BATCH, N, seed=1)).sum(), leaves)
    assert all(bool(torch.isfinite(g).all()) for g in grads)
    assert float(grads[2][1]) == 0.0
    assert float(grads[3][3]) == 0.0


VERTICES = {
    "capped": ([5.0, 3.0, 0.0], [1.0, 1.0, 1.0], 2.0, [0.0] * 3, [1.0] * 3, [1.0, 1.0, 0.0]),
    "lower sum": ([0.3, 0.9, 0.3], [1.0, 1.0, 1.0], 1.0, [0.1, 0.2, 0.7], [1.0] * 3, [0.1, 0.2, 0.7]),
    "on the bounds": ([0.1, 0.2, 0.7], [1.0, 1.0, 1.0], 1.0, [0.1, 0.2, 0.7], [1.0] * 3, [0.1, 0.2, 0.7]),
    "ties at zero": ([0.0] * 3, [1.0, 1.0, 1.0], 0.0, [0.0] * 3, [1.0] * 3, [0.0] * 3),
    "ties at the top": ([0.0] * 3, [1.0, 1.0, 1.0], 3.0, [0.0] * 3, [1.0] * 3, [1.0] * 3),
    "signs": ([2.0, -3.0, 1.0], [1.0, -2.0, 3.0], 3.0, [0.0, -1.0, 0.0], [1.0, 1.0, 2.0], None),
    "zero normal": ([2.0, 3.0, 1.0], [0.0, 1.0, 1.0], 2.0, [0.0] * 3, [1.0] * 3, [1.0, 1.0, 1.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", VERTICES)
def test_vertices_have_zero_gradients(name: str) -> None:
    y, a, b, lower, upper, expected = VERTICES[name]
    leaves = [real(t).requires_grad_() for t in ([y], a, b, lower, upper)]
    x = project_box_hyperplane(*leaves)
    if expected is not None:
        torch.testing.assert_close(x, real([expected]), rtol=1e-15, atol=1e-15)
    grads = torch.autograd.grad((x * real([0.3, -1.1, 0.7])).sum(), leaves)
    assert all(bool(torch.isfinite(g).all()) for g in grads)
    if expected is not None:
        assert float(grads[0].abs().max()) <= 1e-15


@pytest.mark.parametrize(
    ("a", "b", "lower", "upper"),
    [
        ([1.0, 1.0], 5.0, [0.0, 0.0], [1.0, 1.0]),
        ([1.0, 1.0], -5.0, [0.0, 0.0], [1.0, 1.0]),
        ([0.0, 0.0], 1.0, [0.0, -INF], [1.0, INF]),
        ([1.0, -1.0], 0.0, [1.0, 0.0], [0.0, 1.0]),
        ([1.0, 0.0], 5.0, [-INF, 0.0], [1.0, 1.0]),
    ],
)
def test_an_empty_set_harms_no_other_sample(
    a: list[float], b: float, lower: list[float], upper: list[float]
) -> None:
    good = ([1.0, 1.0], 1.0, [0.0, 0.0], [1.0, 1.0])
    both = [real([g, e]).requires_grad_() for g, e in zip(good, (a, b, lower, upper), strict=True)]
    alone = [real(g).requires_grad_() for g in good]
    y = real([[0.3, 0.4], [0.3, 0.4]]).requires_grad_()
    x = project_box_hyperplane(y, *both)
    assert bool(torch.isfinite(x).all())
    grads = torch.autograd.grad((x * real([[1.0, 2.0]])).sum(), [y, *both])
    assert all(bool(torch.isfinite(g).all()) for g in grads)
    first = project_box_hyperplane(y[:1], *alone)
    assert torch.equal(x[:1], first)
    expected = torch.autograd.grad((first * real([[1.0, 2.0]])).sum(), alone)
    for found, reference in zip(grads[1:], expected, strict=True):
        torch.testing.assert_close(found[0], reference, rtol=1e-15, atol=1e-15)


def test_degenerate_balls_and_half_spaces_stay_finite() -> None:
    zero = torch.zeros(1, 3, dtype=torch.float64)
    for project, data in [
        (project_l2_ball, [real(0.0)]),
        (project_l2_ball, [real(1.0)]),
        (project_l1_ball, [real(0.0)]),
        (project_half_space, [real([0.0, 0.0, 0.0]), real(-1.0)]),
        (project_half_space, [real([1.0, 0.0, 0.0]), real(INF)]),
    ]:
        leaves = [zero.clone().requires_grad_(), *(d.clone().requires_grad_() for d in data)]
        x = project(*leaves)
        assert x.tolist() == zero.tolist()
        for grad in torch.autograd.grad(x.sum(), leaves):
            assert bool(torch.isfinite(grad).all())
    pulled = project_l2_ball(real([[3.0, 4.0]]).requires_grad_(), 0.0)
    assert pulled.tolist() == [[0.0, 0.0]]


# The affine set


@pytest.mark.parametrize("shared", [True, False])
def test_affine_set_is_factored_once(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    original = torch.linalg.qr

    def counting(matrix: Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(tuple(matrix.shape))
        return original(matrix, *rest, **options)

    monkeypatch.setattr(torch.linalg, "qr", counting)
    A = normal(2, N) if shared else normal(BATCH, 2, N)
    project = AffineProjector(A, normal(BATCH, 2, seed=1))
    for seed in range(3):
        project(normal(BATCH, N, seed=seed))
    assert seen == [(N, 2) if shared else (BATCH, N, 2)]


@pytest.mark.parametrize("A_batched", [True, False])
@pytest.mark.parametrize("b_batched", [True, False])
def test_affine_set_against_least_squares(A_batched: bool, b_batched: bool) -> None:
    A = normal(BATCH, 2, N) if A_batched else normal(2, N)
    b = normal(BATCH, 2, seed=1) if b_batched else normal(2, seed=1)
    y = normal(BATCH, N, seed=2)
    shift = b - (A @ y.unsqueeze(-1)).squeeze(-1)
    expected = y + (torch.linalg.pinv(A) @ shift.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(project_affine(y, A, b), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("A", "names"),
    [
        ([[1.0, 2.0, 0.0], [0.1, 0.2, 0.0]], "rows 1 "),
        ([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], "rows 1 "),
        ([[1e-9, 0.0, 0.0], [1e9, 0.0, 0.0]], "rows 1 "),
        ([[1.0], [2.0]], "2 rows in 1 variables"),
    ],
)
def test_dependent_rows_of_all_samples_are_an_error(A: Any, names: str) -> None:
    matrix = real(A)
    with pytest.raises(ProblemError, match=f"^A: .*{names}"):
        AffineProjector(matrix, matrix.new_zeros(matrix.shape[-2]))


@pytest.mark.parametrize("b_batched", [True, False])
@pytest.mark.parametrize("row", [[2.0, -4.0, 0.0, 6.0, 0.0, 0.0], [0.0] * N])
def test_dependent_rows_of_one_sample_harm_no_other(b_batched: bool, row: list[float]) -> None:
    clean = normal(BATCH, 2, N)
    faulty = clean.clone()
    faulty[1, 0] = real([1.0, -2.0, 0.0, 3.0, 0.0, 0.0])
    faulty[1, 1] = real(row)
    b = normal(BATCH, 2, seed=1) if b_batched else normal(2, seed=1)
    y, weights = normal(BATCH, N, seed=2), normal(BATCH, N, seed=3)
    others = [0, 2, 3]
    weights[1] = 0.0
    answers = []
    for A in (clean, faulty):
        leaves = [leaf.clone().requires_grad_() for leaf in (y, A, b)]
        project = AffineProjector(*leaves[1:])
        x = project(leaves[0])
        answers.append((x.detach(), torch.autograd.grad((x.nan_to_num() * weights).sum(), leaves)))
    assert AffineProjector(clean, b).dependent is None
    marked = project.dependent
    assert marked is not None
    assert marked.tolist() == [False, True, False, False]
    (expected, exact), (found, gradients) = answers
    assert found[1].isnan().all()
    assert torch.equal(found[others], expected[others])
    for wanted, gradient in zip(exact, gradients, strict=True):
        if wanted.shape[0] == BATCH:
            assert not gradient[1].any()
            assert torch.equal(gradient[others], wanted[others])
        else:
            assert torch.equal(gradient, wanted), "the sum over samples of which one adds zero"


def test_rows_of_very_different_size_are_no_error() -> None:
    x = project_affine(normal(1, 2), real([[1e-9, 0.0], [0.0, 1e9]]), real([1e-9, 2e9]))
    torch.testing.assert_close(x, real([[1.0, 2.0]]), rtol=1e-12, atol=1e-12)
