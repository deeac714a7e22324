"""Coefficients against exact matrices, through vmap and with gradients; rows told apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor

from foldcore.errors import ShapeError
from foldcore.problem.recognition.coefficients import (
    Coefficients,
    Recognised,
    quadratic_coefficients,
    recognise_scalar,
    recognise_vector,
    row_coefficients,
)
from foldcore.problem.recognition.trace import NotPolynomial

N, B = 4, 3
Params = Mapping[str, Tensor]
GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


V, W = rand(N, N), rand(3, N)
PARAMS = {"c": rand(N), "M": rand(N, N), "s": rand()}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def objective(x: Tensor, p: Params) -> Tensor:
    return x @ p["M"] @ x + (V @ x - p["c"]).square().sum() + p["s"] * x[0]


def exact_objective(p: Params) -> tuple[Tensor, Tensor, Tensor]:
    first = torch.eye(N, dtype=torch.float64)[0]
    P = p["M"] + p["M"].mT + 2 * V.mT @ V
    return P, -2 * V.mT @ p["c"] + p["s"] * first, p["c"] @ p["c"]


def rows(x: Tensor, p: Params) -> Tensor:
    risk = p["s"] * (x @ V @ x) - 1
    return torch.cat([W @ x - p["c"][:3], risk.reshape(1), (x * p["c"]).sum().reshape(1)])


def exact_rows(p: Params) -> tuple[Tensor, Tensor, Tensor]:
    H = torch.zeros(5, N, N, dtype=torch.float64)
    H[3] = p["s"] * (V + V.mT)
    J = torch.cat([W, torch.zeros(1, N, dtype=torch.float64), p["c"][None]])
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return H, J, torch.cat([-p["c"][:3], -one, zero])


def test_quadratic_coefficients() -> None:
    for actual, expected in zip(
        quadratic_coefficients(objective, N)(PARAMS), exact_objective(PARAMS), strict=True
    ):
        close(actual, expected)


def test_row_coefficients() -> None:
    for actual, expected in zip(row_coefficients(rows, N)(PARAMS), exact_rows(PARAMS), strict=True):
        close(actual, expected)
    H, J, r = exact_rows(PARAMS)
    some = row_coefficients(rows, N, rows=(3, 0))
    close(some.quadratic(PARAMS), H[[3, 0]])
    close(some.linear(PARAMS), J[[3, 0]])
    close(some.constant(PARAMS), r[[3, 0]])


@pytest.mark.parametrize("m", [1, N, N + 3])
def test_jacobian_of_few_and_many_rows(m: int) -> None:
    A, b = rand(m, N), rand(m)
    linear, constant = row_coefficients(lambda x, p: A @ x - p["s"] * b, N).affine(PARAMS)
    close(linear, A)
    close(constant, -PARAMS["s"] * b)


def test_coefficients_through_vmap() -> None:
    batch = {"c": rand(B, N), "M": rand(B, N, N), "s": PARAMS["s"]}
    dims = {"c": 0, "M": 0, "s": None}
    for coefficients, exact in (
        (quadratic_coefficients(objective, N), exact_objective),
        (row_coefficients(rows, N), exact_rows),
    ):
        results = torch.func.vmap(coefficients, in_dims=(dims,))(batch)
        for i in range(B):
            sample = {"c": batch["c"][i], "M": batch["M"][i], "s": batch["s"]}
            for actual, expected in zip(results, exact(sample), strict=True):
                close(actual[i], expected)


def test_coefficients_that_do_not_vary_through_vmap() -> None:
    linear = torch.func.vmap(row_coefficients(lambda x, p: W @ x - p["c"][:3], N).linear)
    close(linear({"c": rand(B, N)}), W.expand(B, 3, N))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_gradients_in_params(part: int) -> None:
    for coefficients, exact in (
        (quadratic_coefficients(objective, N), exact_objective),
        (row_coefficients(rows, N), exact_rows),
    ):
        weight = rand(*exact(PARAMS)[part].shape)

        def weighted(
            p: Params,
            of: Callable[[Params], tuple[Tensor, Tensor, Tensor]],
            weight: Tensor = weight,
        ) -> Tensor:
            return (weight * of(p)[part]).sum()

        actual = torch.func.grad(weighted)(PARAMS, coefficients)
        expected = torch.func.grad(weighted)(PARAMS, exact)
        for name in PARAMS:
            close(actual[name], expected[name])


def test_gradients_through_vmap_reach_leaves() -> None:
    c = rand(B, N).requires_grad_()
    P, q, _ = torch.func.vmap(
        quadratic_coefficients(lambda x, p: (p["c"] * x**2 + p["c"].exp() * x).sum(), N)
    )({"c": c})
    close(P, torch.diag_embed(2 * c))
    (P.sum() + q.sum()).backward()
    assert c.grad is not None
    close(c.grad, 2 + c.detach().exp())


OPERATIONS: dict[str, Callable[[Tensor, Params], Tensor]] = {
    "mse": lambda x, p: fn.mse_loss(x, p["c"]),
    "variance": lambda x, p: x.var(),
    "einsum": lambda x, p: torch.einsum("i,ij,j->", x, p["M"], x),
    "kron": lambda x, p: torch.kron(x, x).reshape(N, N).tril().trace(),
    "outer": lambda x, p: (torch.outer(x, x) * p["M"]).diagonal().sum(),
    "matrix_power": lambda x, p: torch.linalg.matrix_power(torch.outer(x, p["c"]), 2).sum(),
    "multi_dot": lambda x, p: torch.linalg.multi_dot([x, p["M"], V, x]),
    "convolution": lambda x, p: fn.conv1d(x[None, None], x[None, None, :2]).sum(),
    "cross": lambda x, p: torch.cross(x[:3], x[1:] + p["s"], dim=0),
    "addr": lambda x, p: torch.addr(V, x, x).sum(0),
    "baddbmm": lambda x, p: torch.baddbmm(V[None], x.reshape(1, N, 1), x.reshape(1, 1, N)).sum(),
    "tensordot": lambda x, p: torch.tensordot(p["M"], torch.outer(x, x), dims=2),
    "scatter": lambda x, p: torch.scatter(V[0] * x, 0, torch.tensor([1, 2]), x[:2] * x[0]),
    "index_add": lambda x, p: x.index_add(0, torch.tensor([1, 1]), x[:2] * x[2:]),
    "where": lambda x, p: torch.where(p["c"] > 0, x, x**2),
    "padding": lambda x, p: fn.pad(x, (1, 2), value=1.5) * fn.pad(x, (2, 1)),
    "slices": lambda x, p: x[1:] * x[:-1] + x[0] - 1,
    "differences": lambda x, p: x.diff().square() * p["s"],
    "moves": lambda x, p: (x.reshape(2, 2) @ x.reshape(2, 2).mT).rot90().flatten().cumsum(0),
    "division": lambda x, p: (x.square() - 1) / p["c"],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_coefficients_reproduce_the_function(name: str) -> None:
    function = OPERATIONS[name]
    vector = function(rand(N), PARAMS).ndim == 1
    found = (recognise_vector if vector else recognise_scalar)(function, N, PARAMS)
    assert isinstance(found, Recognised), found
    assert found.has_quadratic
    H, J, r = Coefficients(function, N)(PARAMS)
    for _ in range(3):
        x = rand(N)
        close(torch.einsum("...ij,i,j->...", H, x, x) / 2 + J @ x + r, function(x, PARAMS))


def test_scalar_structure() -> None:
    found = recognise_scalar(objective, N, PARAMS)
    assert isinstance(found, Recognised)
    assert found.shape == ()
    assert found.has_quadratic
    assert found.quadratic_depends == {"M"}
    assert found.linear_depends == {"c", "s"}
    assert found.constant_depends == {"c"}
    assert found.hessian is None
    constant = recognise_scalar(lambda x, p: (x - p["c"]).square().sum(), N, PARAMS)
    assert isinstance(constant, Recognised)
    assert constant.hessian is not None
    close(constant.hessian, 2 * torch.eye(N, dtype=torch.float64))
    linear = recognise_scalar(lambda x, p: -(p["c"] @ x), N, PARAMS)
    assert isinstance(linear, Recognised)
    assert not linear.has_quadratic
    number = recognise_scalar(lambda x, p: 3.0, N, PARAMS)  # type: ignore[arg-type, return-value]
    assert isinstance(number, Recognised)
    assert not number.has_quadratic
    close(
        Coefficients(lambda x, p: 3.0, N).linear(PARAMS),  # type: ignore[arg-type, return-value]
        torch.zeros(N, dtype=torch.float64),
    )


def test_cancelled_curvature_is_linear() -> None:
    found = recognise_scalar(lambda x, p: x @ x - (x * x).sum() + x.sum(), N, PARAMS)
    assert isinstance(found, Recognised)
    assert not found.has_quadratic
    assert found.hessian is None


def test_rows_are_told_apart_where_hessians_are_constant() -> None:
    def mixed(x: Tensor, p: Params) -> Tensor:
        risk = x @ V @ x - p["s"]
        return torch.stack([W[0] @ x, risk, p["c"] @ x - 1, 1e-30 * x[0] * x[1]])

    found = recognise_vector(mixed, N, PARAMS)
    assert isinstance(found, Recognised)
    assert found.curved_rows == (1, 3)
    assert found.affine_rows == (0, 2)
    assert found.quadratic_depends == frozenset()
    assert found.hessian is not None
    close(found.hessian[0], V + V.mT)
    assert found.hessian[1].abs().sum().item() == pytest.approx(2e-30)


def test_rows_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    def many(x: Tensor, p: Params) -> Tensor:
        return torch.cat([W @ x, x * x, x - p["c"], (x[0] * x[1]).reshape(1)])

    whole = recognise_vector(many, N, PARAMS)
    monkeypatch.setattr("foldcore.problem.recognition.coefficients._CHUNK", 2 * N * N)
    chunked = recognise_vector(many, N, PARAMS)
    assert isinstance(whole, Recognised)
    assert isinstance(chunked, Recognised)
    assert whole.curved_rows == chunked.curved_rows == (3, 4, 5, 6, 11)
    assert whole.hessian is not None
    assert chunked.hessian is not None
    assert torch.equal(whole.hessian, chunked.hessian)


def test_all_rows_are_curved_where_hessians_depend_on_params() -> None:
    found = recognise_vector(rows, N, {**PARAMS, "s": torch.zeros((), dtype=torch.float64)})
    assert isinstance(found, Recognised)
    assert found.curved_rows == (0, 1, 2, 3, 4)
    assert found.affine_rows == ()
    assert found.quadratic_depends == {"s"}
    assert found.hessian is None


def test_affine_rows() -> None:
    found = recognise_vector(lambda x, p: W @ x - p["c"][:3], N, PARAMS)
    assert isinstance(found, Recognised)
    assert not found.has_quadratic
    assert found.affine_rows == (0, 1, 2)
    assert found.curved_rows == ()
    assert found.linear_depends == frozenset()
    assert found.constant_depends == {"c"}


def test_a_hessian_that_is_not_finite_is_curved() -> None:
    found = recognise_vector(lambda x, p: x[:2] * x[2:] * math.nan, N, PARAMS)
    assert isinstance(found, Recognised)
    assert found.curved_rows == (0, 1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x, p: (x**3).sum(), "degree 3"),
        (lambda x, p: x @ x + 1e-30 * (x**4).sum(), "degree 4"),
        (lambda x, p: (torch.relu(x - 3) ** 3).sum(), "relu"),
        (lambda x, p: x.abs().sum(), "abs"),
    ],
)
def test_zero_hessians_at_the_origin_do_not_deceive(
    function: Callable[[Tensor, Params], Tensor], reason: str
) -> None:
    for found in (
        recognise_scalar(function, N, PARAMS),
        recognise_vector(lambda x, p: function(x, p).reshape(1), N, PARAMS),
    ):
        assert isinstance(found, NotPolynomial)
        assert reason in found.reason


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"\(1,\)"):
        recognise_scalar(lambda x, p: x[:1], N, PARAMS)
    with pytest.raises(ShapeError, match="reshape"):
        recognise_vector(lambda x, p: x.sum(), N, PARAMS)


def test_example_params_that_need_gradients() -> None:
    params = {"c": rand(N).requires_grad_()}
    found = recognise_scalar(lambda x, p: x @ x + p["c"] @ x, N, params)
    assert isinstance(found, Recognised)
    assert found.hessian is not None
    assert not found.hessian.requires_grad
