"""Degrees and dependencies by tracing: right answers, refusals, and random expression trees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as fn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from foldcore.problem.recognition.degrees import RefusalError, Traced
from foldcore.problem.recognition.operations import RULES, Call
from foldcore.problem.recognition.trace import NotPolynomial, Polynomial, trace

N = 4
Params = Mapping[str, Tensor]
Function = Callable[[Tensor, Params], object]

GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=GENERATOR) + 0.5


V, W, U = rand(N, N), rand(N, N), rand(N)
MASK = torch.tensor([True, False, True, True])
INDEX = torch.tensor([2, 0])
CAPTURED = torch.zeros(N, dtype=torch.float64)
LINEAR = nn.Linear(N, 2).double().requires_grad_(False)
PARAMS: dict[str, Tensor] = {
    "c": rand(N),
    "d": rand(N),
    "s": rand(),
    "k": torch.tensor([0, 2]),
    "M": rand(N, N) + 4 * torch.eye(N, dtype=torch.float64),
}


def filled(x: Tensor, p: Params) -> Tensor:
    table = x.new_zeros(N)
    table[1] = 2.0
    return table @ x


def built(x: Tensor, p: Params) -> Tensor:
    matrix = torch.zeros(N, N, dtype=x.dtype, device=x.device)
    matrix[0, 1] = 3.0
    matrix.diagonal().fill_(1.0)
    return x @ matrix @ x


def functional(x: Tensor, p: Params) -> Tensor:
    weights = {"weight": p["M"][:2], "bias": p["c"][:2]}
    return torch.func.functional_call(LINEAR, weights, (x,)).square().sum()


STRUCTURAL: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.reshape(2, 2).rot90().t().fliplr().flipud().ravel(),
    lambda x: x.tile(2).repeat(2).unfold(0, 3, 2).sum((0, 1)),
    lambda x: torch.vstack([x, x]).mean(0) + torch.hstack([x, x])[N:],
    lambda x: torch.dstack([x, x]).squeeze().unsqueeze(0).movedim(0, -1),
    lambda x: torch.column_stack([x, x]).swapaxes(0, 1).unflatten(1, (2, 2)),
    lambda x: torch.block_diag(x, x.reshape(2, 2)).diag(),
    lambda x: sum(torch.meshgrid(x, x, indexing="ij")),  # type: ignore[arg-type]
    lambda x: torch.broadcast_tensors(x, x.reshape(N, 1))[1].triu().tril().trace(),
    lambda x: torch.atleast_2d(x).expand(3, N).permute(1, 0).contiguous().view(3, N).clone(),
    lambda x: x.index_fill(0, INDEX, 0.0) + x.index_copy(0, INDEX, x[2:]),
    lambda x: x.scatter_add(0, INDEX, x[:2]) - x.scatter(0, INDEX, x[2:]),
    lambda x: torch.slice_scatter(x, x[:2], 0, 1, 3) + x.take(torch.tensor([1, 1, 0, 3])),
    lambda x: torch.diagonal_scatter(torch.outer(U, x), x).take_along_dim(INDEX[None], 1),
    lambda x: torch.stack(x.split(2)) + torch.stack(x.chunk(2)) + torch.stack(x.tensor_split(2)),
    lambda x: x.select(0, 1) + x.narrow(0, 1, 2) + x.unbind()[3] + x.diag_embed()[0, 0],
    lambda x: torch.addmm(x, V, V * x) + torch.addbmm(V * x, V[None], (V * x)[None]),
    lambda x: fn.conv2d(x.reshape(1, 1, 2, 2), V[None, None, :2, :2]).flatten() * torch.vdot(U, x),
    lambda x: torch.inner(V, x) - torch.ger(x, U).mv(U) + torch.mm(V, x[:, None]).mT[0],
    lambda x: torch.bmm(V[None], torch.diagflat(x)[None]).sum(0),
    lambda x: torch.linalg.multi_dot([V, x[:, None], U[None]]),
    lambda x: +x - torch.sub(U * 0 + x, x, alpha=3) + torch.rsub(x, x) + x.double().positive(),
    lambda x: (
        x.expand_as(V).reshape_as(V).view_as(V.mT).type_as(V) * torch.linalg.cross(U[:3], x[:3])[0]
    ),
]


@pytest.mark.parametrize("index", range(len(STRUCTURAL)))
def test_structural_operations(index: int) -> None:
    """Multilinear forms of small degree without a constant term or a parameter."""

    def function(x: Tensor, p: Params) -> Tensor:
        return STRUCTURAL[index](x)

    found = trace(function, N, PARAMS)
    assert isinstance(found, Polynomial), found
    assert all(not names for names in found.parts.values())
    check_claims(function, found.parts)
    assert coefficients_along(function, rand(N), PARAMS, found.degree)[-3].abs().max() > 1e-3


# name: (function, {degree: names of the parameters that it depends on})
PROVEN: dict[str, tuple[Function, dict[int, str]]] = {
    "constant": (lambda x, p: torch.ones((), dtype=torch.float64), {0: ""}),
    "number": (lambda x, p: 3.0, {0: ""}),
    "size": (lambda x, p: x.shape[0] * len(x) + x.numel(), {0: ""}),
    "ignores_x": (lambda x, p: p["c"].norm(), {0: "c"}),
    "zeros_like": (lambda x, p: torch.zeros_like(x).sum(), {0: ""}),
    "linear": (lambda x, p: p["c"] @ x, {1: "c"}),
    "affine": (lambda x, p: V @ x - p["d"], {0: "d", 1: ""}),
    "quadratic": (lambda x, p: x @ V @ x, {2: ""}),
    "qp": (lambda x, p: 0.5 * x @ p["M"] @ x + p["c"] @ x, {1: "c", 2: "M"}),
    "distance": (lambda x, p: (x - p["c"]).square().sum(), {0: "c", 1: "c", 2: ""}),
    "mse": (lambda x, p: fn.mse_loss(x, p["c"]), {0: "c", 1: "c", 2: ""}),
    "variance": (lambda x, p: x.var(), {2: ""}),
    "sign_of_c": (lambda x, p: ((p["c"] > 0).double() * x**2).sum(), {2: "c"}),
    "product_of_params": (lambda x, p: (p["c"] * p["d"]) @ x, {1: "cd"}),
    "unknown_of_c": (lambda x, p: torch.exp(p["c"]).sort().values @ x, {1: "c"}),
    "eigenvalues": (lambda x, p: torch.linalg.eigh(p["M"]).eigenvalues @ x, {1: "M"}),
    "solve": (lambda x, p: torch.linalg.solve(p["M"], p["c"]) @ x, {1: "Mc"}),
    "indexed_constant": (lambda x, p: V[p["k"]].sum() * x.sum(), {1: "k"}),
    "divide": (lambda x, p: ((x**2 + 1) / p["s"]).sum(), {0: "s", 2: "s"}),
    "reversed_divide": (lambda x, p: (1 / p["c"]) @ x, {1: "c"}),
    "where_c": (lambda x, p: torch.where(p["c"] > 1, x, x**2).sum(), {1: "c", 2: "c"}),
    "where_method": (lambda x, p: x.where(p["c"] > 1, p["d"]).sum(), {0: "cd", 1: "c"}),
    "where_mask": (lambda x, p: torch.where(MASK, x, p["d"]).sum(), {0: "d", 1: ""}),
    "masked_fill": (lambda x, p: x.masked_fill(p["c"] > 1, 2.0), {0: "c", 1: "c"}),
    "einsum": (lambda x, p: torch.einsum("i,ij,j->", x, p["M"], x), {2: "M"}),
    "einsum_lists": (lambda x, p: torch.einsum(x, [0], V, [0, 1], p["c"], [1]), {1: "c"}),
    "slices": (lambda x, p: x[1:] * x[:-1] + x[0] - x[..., -1], {1: "", 2: ""}),
    "mask": (lambda x, p: x[MASK].sum(), {1: ""}),
    "matrix_mask": (lambda x, p: torch.outer(x, x)[V > 1].sum(), {2: ""}),
    "index": (lambda x, p: x[INDEX] + x.index_select(0, INDEX) + x.gather(0, INDEX), {1: ""}),
    "stack": (lambda x, p: torch.stack([x.sum(), p["s"], x[0] ** 2]), {0: "s", 1: "", 2: ""}),
    "cat": (lambda x, p: torch.cat([V @ x - 1, (x * x).sum().reshape(1)]), {0: "", 1: "", 2: ""}),
    "shapes": (lambda x, p: x.reshape(2, 2).T.flatten().roll(1).flip(0) @ p["c"], {1: "c"}),
    "differences": (lambda x, p: x.diff(prepend=p["c"][:1]) + x.cumsum(0), {0: "c", 1: ""}),
    "iteration": (lambda x, p: sum(a * b for a, b in zip(x, p["c"], strict=True)), {0: "", 1: "c"}),
    "python_square": (lambda x, p: sum(x[i] ** 2 for i in range(N)), {0: "", 2: ""}),
    "float_exponent": (lambda x, p: (x**2.0).sum(), {2: ""}),
    "zeroth_power": (lambda x, p: (x**0).sum(), {0: ""}),
    "padding": (lambda x, p: fn.pad(x, (1, 1)), {1: ""}),
    "padding_value": (lambda x, p: fn.pad(x, (1, 1), value=2.0), {0: "", 1: ""}),
    "module": (lambda x, p: LINEAR(x), {0: "", 1: ""}),
    "functional_call": (functional, {0: "c", 1: "Mc", 2: "M"}),
    "addmv": (lambda x, p: torch.addmv(p["c"], V, x), {0: "c", 1: ""}),
    "scatter": (lambda x, p: torch.select_scatter(x, p["s"], 0, 1) @ x, {1: "s", 2: ""}),
    "eye": (lambda x, p: x @ torch.eye(N, dtype=x.dtype, device=x.device) @ x, {2: ""}),
    "cast": (lambda x, p: x.to(V).to("cpu", torch.float64).sum(), {1: ""}),
    "kron": (lambda x, p: torch.kron(x, x) @ torch.kron(p["c"], U), {2: "c"}),
    "numpy_scalar": (lambda x, p: np.float64(2.0) * x, {1: ""}),
    "filled": (filled, {1: ""}),
    "built": (built, {2: ""}),
    "cubic": (lambda x, p: (x**3).sum(), {3: ""}),
    "tiny_quartic": (lambda x, p: x @ x + 1e-30 * (x**4).sum(), {2: "", 4: ""}),
    "product_of_three": (lambda x, p: p["s"] * x[0] * x[1] * x[2], {3: "s"}),
}


@pytest.mark.parametrize("name", PROVEN)
def test_degrees_and_dependencies(name: str) -> None:
    function, expected = PROVEN[name]
    found = trace(function, N, PARAMS)  # type: ignore[arg-type]
    assert isinstance(found, Polynomial), found
    assert dict(found.parts) == {d: frozenset(names) for d, names in expected.items()}
    assert found.degree == max(expected)
    assert found.shape == tuple(torch.as_tensor(function(torch.zeros(N).double(), PARAMS)).shape)


@pytest.mark.parametrize("name", PROVEN)
def test_parts_hold_numerically(name: str) -> None:
    """Two sets of parameters differ by a polynomial whose degrees depend as claimed."""
    function, expected = PROVEN[name]
    parts = {d: frozenset(names) for d, names in expected.items()}
    check_claims(function, parts)


def coefficients_along(function: Function, direction: Tensor, p: Params, degree: int) -> Tensor:
    """Return the coefficients of t -> f(t·direction), lowest degree first, from samples."""
    nodes = torch.cos(torch.arange(degree + 3) * math.pi / (degree + 2)).double()
    values = torch.stack(
        [torch.as_tensor(function(t * direction, p)).double().reshape(-1) for t in nodes]
    )
    return torch.linalg.solve(torch.vander(nodes, increasing=True), values)


def check_claims(function: Function, parts: Mapping[int, frozenset[str]]) -> None:
    degree = max(parts)
    for _ in range(2):
        direction = rand(N)
        reference = coefficients_along(function, direction, PARAMS, degree)
        scale = 1e-9 * (1 + reference.abs().max())
        for d in range(len(reference)):
            if d not in parts:
                assert reference[d].abs().max() < scale, f"degree {d} is present"
        for name in ("c", "d", "s", "M"):
            # Some dependencies only show where a comparison flips.
            changed = {**PARAMS, name: 3 * rand(*PARAMS[name].shape) - 2.5}
            moved = coefficients_along(function, direction, changed, degree)
            for d, names in parts.items():
                if name not in names:
                    bound = scale + 1e-9 * moved.abs().max()
                    assert (moved[d] - reference[d]).abs().max() < bound, f"degree {d}: {name}"


def captured_write(x: Tensor, p: Params) -> Tensor:
    CAPTURED[0] = x[0]
    return CAPTURED.sum()


def captured_state(x: Tensor, p: Params) -> Tensor:
    CAPTURED.add_(1)
    return (CAPTURED * x).sum()


def under_no_grad(x: Tensor, p: Params) -> Tensor:
    with torch.no_grad():
        y = 2 * x
    return y @ x


def under_inference_mode(x: Tensor, p: Params) -> Tensor:
    with torch.inference_mode():
        c = 2 * p["c"]
    return c @ x


def under_autocast(x: Tensor, p: Params) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return x @ V @ x


def under_fork(x: Tensor, p: Params) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        return torch.rand(N, dtype=x.dtype) @ x


# The schema is spelt out, since torch 2.4 reads none from postponed annotations.
@torch.library.custom_op(
    "foldcore_tests::fill",
    mutates_args={"target"},
    schema="(Tensor(a!) target, Tensor source) -> ()",
)
def fill(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


def custom_write(x: Tensor, p: Params) -> Tensor:
    scale = p["c"] * 1
    fill(scale, p["d"])
    return scale @ x


def running_statistics(x: Tensor, p: Params) -> Tensor:
    mean, ones = p["c"] * 1, torch.ones(N, dtype=x.dtype)
    fn.batch_norm(p["M"], mean, ones, training=True)
    return mean @ x


class Accumulating(nn.Module):
    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        target.add_(source)
        return target * 1


def scripted_write(x: Tensor, p: Params) -> Tensor:
    """A scripted method runs without Python seeing its operations."""
    scale = p["c"] * 1
    torch.jit.script(Accumulating())(scale, p["d"])
    return scale @ x


def swallowed(x: Tensor, p: Params) -> Tensor:
    try:
        if p["c"][0] > 0:
            return x.sum()
    except Exception:
        pass
    return x @ x


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


# name: (function, words of the reason). Most have a zero Hessian wherever one looks.
REFUSED: dict[str, tuple[Function, str]] = {
    "abs": (lambda x, p: x.abs().sum(), "abs to x"),
    "builtin_abs": (lambda x, p: abs(x).sum(), "abs"),
    "relu_cubed": (lambda x, p: (torch.relu(x - 3) ** 3).sum(), "relu to x"),
    "relu_module": (lambda x, p: fn.relu(LINEAR(x)).sum(), "relu to x"),
    "where_x": (lambda x, p: torch.where(x > 3, x**2, x).sum(), "x"),
    "multiplied_comparison": (lambda x, p: ((x > 3) * x).sum(), "x"),
    "branch_x": (lambda x, p: x.sum() if x.sum() > 0 else x @ x, "x"),
    "branch_x_bool": (lambda x, p: x.sum() if x[0] else x @ x, "branches on x"),
    "branch_c": (lambda x, p: x.sum() if p["c"][0] > 0 else x @ x, "branches on parameter 'c'"),
    "float_c": (lambda x, p: float(p["s"]) * x.sum(), "leaves torch with parameter 's'"),
    "item": (lambda x, p: x[0].item() * x.sum(), "leaves torch with x (item)"),
    "tolist": (lambda x, p: p["c"].tolist()[0] * x.sum(), "parameter 'c'"),
    "numpy": (lambda x, p: torch.from_numpy(p["c"].numpy()) @ x, "parameter 'c'"),
    "asarray": (lambda x, p: torch.from_numpy(np.asarray(p["c"])) @ x, "parameter 'c'"),
    "numpy_function": (lambda x, p: torch.as_tensor(np.exp(p["c"])) @ x, "parameter 'c'"),
    "index_python": (lambda x, p: [1.0, 2.0, 3.0][p["k"][0]] * x.sum(), "parameter 'k'"),
    "slice_c": (lambda x, p: x[: p["k"][1]].sum(), "parameter 'k'"),
    "slice_constant": (lambda x, p: V[: p["k"][1]].shape[0] * x.sum(), "parameter 'k'"),
    "gather_by_c": (lambda x, p: x[p["k"]].sum(), "parameter 'k'"),
    "mask_c": (lambda x, p: x[p["c"] > 1].sum(), "parameter 'c'"),
    "index_by_x": (lambda x, p: V[x.long()].sum(), "long"),
    "size_of_nonzero": (lambda x, p: p["c"].nonzero().shape[0] * x.sum(), ""),
    "size_of_unique": (lambda x, p: p["c"].unique().shape[0] * x.sum(), ""),
    "size_of_one_hot": (lambda x, p: fn.one_hot(p["k"]).shape[1] * x.sum(), ""),
    "size_of_arange": (lambda x, p: torch.arange(p["k"][1]).shape[0] * x.sum(), ""),
    "size_of_selected": (lambda x, p: p["c"].masked_select(p["c"] > 1).shape[0] * x.sum(), ""),
    "allclose": (lambda x, p: x.sum() * torch.allclose(p["c"], U), "parameter 'c'"),
    "contains": (lambda x, p: x.sum() * (1.0 in p["c"]), "parameter 'c'"),
    "inverse": (lambda x, p: (1 / (x + 3)).sum(), "divides by x"),
    "divide": (lambda x, p: (p["c"] / (x + 3)).sum(), "divides by x"),
    "rounded_division": (lambda x, p: torch.div(x, 2, rounding_mode="floor").sum(), "rounding"),
    "floor_division": (lambda x, p: (x // 2).sum(), "x"),
    "remainder": (lambda x, p: (x % 2).sum(), "x"),
    "half_power": (lambda x, p: (x**0.5).sum(), "to the power 0.5"),
    "negative_power": (lambda x, p: ((x + 3) ** -1).sum(), "to the power -1"),
    "power_by_c": (lambda x, p: (x ** p["s"]).sum(), "not a constant number"),
    "exponential": (lambda x, p: (2**x).sum(), "x"),
    "huge_power": (lambda x, p: (x**1000000).sum(), "power"),
    "high_degree": (lambda x, p: (x**40 * x**40).sum(), "degree above"),
    "norm": (lambda x, p: x.norm(), "norm to x"),
    "norm_squared": (lambda x, p: torch.linalg.vector_norm(x) ** 2, "x"),
    "max": (lambda x, p: x.max(), "max to x"),
    "sort": (lambda x, p: x.sort().values[0], "sort to x"),
    "round": (lambda x, p: x.round().sum(), "round to x"),
    "clamp": (lambda x, p: x.clamp(max=3).sum(), "clamp to x"),
    "detach": (lambda x, p: x.detach() @ x, "gradient of x"),
    "detach_c": (lambda x, p: p["c"].detach() @ x, "gradient of parameter 'c'"),
    "data": (lambda x, p: x.data @ x, "gradient of x"),
    "grad_attribute": (lambda x, p: x.sum() if x.grad is None else x @ x, "x"),
    "requires_grad": (lambda x, p: x.sum() if x.requires_grad else x @ x, "x"),
    "copy": (lambda x, p: torch.tensor(p["c"]) @ x, "parameter 'c'"),
    "copy_items": (lambda x, p: torch.tensor([p["s"]], dtype=x.dtype) * x[:1], "parameter 's'"),
    "copy_x": (lambda x, p: torch.tensor([x[0]]), "x"),
    "subclass": (lambda x, p: x.as_subclass(Tensor), "hides"),
    "subclass_used": (lambda x, p: x.as_subclass(Tensor) @ x, "hides"),
    "constructor": (lambda x, p: nn.Parameter(x) @ x, "x"),
    "bits": (lambda x, p: x.view(torch.float32).sum(), "reinterprets"),
    "integers": (lambda x, p: x.to(torch.int64).sum(), "casts x"),
    "half": (lambda x, p: x.to(torch.bfloat16).sum(), "casts x"),
    "type_as": (lambda x, p: x.type_as(INDEX).sum(), "casts x"),
    "sum_of_integers": (lambda x, p: x.sum(dtype=torch.int64), "casts x"),
    "in_place": (lambda x, p: x.clone().add_(1).sum(), "in place"),
    "in_place_view": (lambda x, p: (x * 1).mul_(p["c"]).sum(), "in place"),
    "out": (lambda x, p: torch.mul(x, x, out=torch.zeros(N).double()).sum(), "in place"),
    "operator": (lambda x, p: torch.ops.aten.add_.Tensor(p["c"] * 1, p["d"]) @ x, "in place"),
    "operator_on_captured": (
        lambda x, p: torch.ops.aten.add_.Tensor(CAPTURED, U) @ x,
        "did not make",
    ),
    "running_statistics": (running_statistics, "operator"),
    "scripted_write": (scripted_write, "TorchScript"),
    "custom_operator": (custom_write, "operator"),
    "set_data": (lambda x, p: setattr(x, "data", U) or x.sum(), "in place"),
    "captured_write": (captured_write, "in place"),
    "captured_state": (captured_state, "did not make"),
    "no_grad": (under_no_grad, "gradient of x"),
    "inference_mode": (under_inference_mode, "gradient of parameter 'c'"),
    "autocast": (under_autocast, "autocast"),
    "autograd_function": (lambda x, p: Doubled.apply(x).sum(), "x"),
    "swallowed": (swallowed, "branches on parameter 'c'"),
    "random": (lambda x, p: torch.rand(N, dtype=torch.float64) @ x, "random"),
    "own_generator": (lambda x, p: torch.rand(N, generator=GENERATOR).double() @ x, "random"),
    "own_generator_in_place": (
        lambda x, p: (x.new_zeros(N).cauchy_(generator=GENERATOR)) @ x,
        "random",
    ),
    "generator_of_unlisted_operation": (
        lambda x, p: torch.ops.aten.rrelu_with_noise(-U, U, 0.1, 0.3, True, GENERATOR) @ x,
        "random",
    ),
    "function_argument": (
        lambda x, p: fn.triplet_margin_with_distance_loss(
            U, U, U, distance_function=lambda a, b: (x * a).sum(), margin=2.0
        ),
        "Python function",
    ),
    "restored_generator": (under_fork, "random"),
    "dropout": (lambda x, p: fn.dropout(p["c"]) @ x, "random"),
    "random_attention": (
        lambda x, p: fn.scaled_dot_product_attention(p["M"], V, W, dropout_p=0.5)[0] @ x,
        "random",
    ),
    "vmap": (lambda x, p: torch.func.vmap(lambda row: row @ x)(V).sum(), ""),
    "vmap_of_x": (lambda x, p: torch.func.vmap(lambda y: y * y)(x).sum(), ""),
    "grad": (lambda x, p: torch.func.grad(lambda y: (y**4).sum())(x).sum(), ""),
    "keyword": (lambda x, p: torch.add(x, x, alpha=p["s"]).sum(), "not understood"),
    "deprecated_order": (
        lambda x, p: torch.addmm(2, x.expand(N, N), p["M"], V).sum(),
        "not understood",
    ),
    "scatter_product": (
        lambda x, p: x.scatter(0, INDEX, x[:2], reduce="multiply"),
        "reduction",
    ),
    "returns_none": (lambda x, p: None, "does not return"),
    "returns_bool_of_x": (lambda x, p: x.sum() > 3, "x"),
    "sparse": (lambda x, p: V.to_sparse() @ x, "sparse"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_planted_faults_are_refused(name: str) -> None:
    function, words = REFUSED[name]
    found = trace(function, N, PARAMS)  # type: ignore[arg-type]
    assert isinstance(found, NotPolynomial), found
    assert words in found.reason
    assert torch.is_grad_enabled()


def test_a_condition_on_x_is_refused_by_the_rule_itself() -> None:
    """No boolean tensor can depend on x today; the rule does not rely on that."""
    x = Traced.wrap(torch.ones(N, device="meta"), {1: frozenset()})
    with pytest.raises(RefusalError, match="condition on x"):
        RULES[torch.where](Call("where", (x, U, U), {}))


def test_values_do_not_matter() -> None:
    def function(x: Tensor, p: Params) -> Tensor:
        return ((p["c"] > 0).double() * x**2).sum() + p["c"].max() * x.sum()

    answers = [trace(function, N, {"c": v * torch.ones(N)}) for v in (0.0, 1.0, math.nan, math.inf)]
    assert all(answer == answers[0] for answer in answers)
    assert isinstance(answers[0], Polynomial)
    assert answers[0].depends(2) == {"c"}


def test_errors_of_the_function_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="size"):
        trace(lambda x, p: torch.ones(N + 1, dtype=x.dtype) @ x, N, PARAMS)
    with pytest.raises(KeyError, match="absent"):
        trace(lambda x, p: p["absent"] @ x, N, PARAMS)


def test_dtype_and_shapes() -> None:
    seen: list[torch.dtype] = []

    def function(x: Tensor, p: Params) -> Tensor:
        seen.append(x.dtype)
        return x @ x

    trace(function, N, {"c": torch.ones(N)})
    trace(function, N, {"k": torch.arange(N)})
    trace(function, N, {"c": torch.ones(N)}, dtype=torch.float64)
    assert seen == [torch.float32] * 2 + [torch.float64] * 4
    found = trace(lambda x, p: x.reshape(2, 2), N, {})
    assert isinstance(found, Polynomial)
    assert found.shape == (2, 2)


def test_a_traced_tensor_is_useless_outside_the_trace() -> None:
    kept: list[Tensor] = []
    trace(lambda x, p: kept.append(x) or x.sum(), N, {})  # type: ignore[func-returns-value]
    with pytest.raises(Exception, match="escape"):
        kept[1] + 1


# Random trees over vectors of length N. Each step maps earlier vectors to a new one.
UNARY: list[Callable[[Tensor, Params], Tensor]] = [
    lambda a, p: -a,
    lambda a, p: a.square(),
    lambda a, p: a**2,
    lambda a, p: V @ a,
    lambda a, p: a @ p["M"],
    lambda a, p: a * p["c"],
    lambda a, p: a - p["d"],
    lambda a, p: a / p["c"].exp(),
    lambda a, p: a.cumsum(0).flip(0),
    lambda a, p: a.roll(1).reshape(2, 2).mT.flatten(),
    lambda a, p: torch.where(p["d"] > 1, a, 1.0),
    lambda a, p: fn.pad(a[1:], (0, 1), value=0.5),
    lambda a, p: a.sum().expand(N),
    lambda a, p: torch.stack([a[0], a[1] * a[2], p["s"], a.mean()]),
    lambda a, p: torch.outer(a, a).diagonal(),
    lambda a, p: torch.einsum("i,ij,k->k", a, W, p["c"]),
    lambda a, p: a.masked_fill(MASK, 0.0),
    lambda a, p: a.diff(prepend=p["s"].reshape(1)),
    lambda a, p: torch.cat([a[MASK], a[:1]]),
    lambda a, p: a.new_ones(N) + a,
]
BINARY: list[Callable[[Tensor, Tensor, Params], Tensor]] = [
    lambda a, b, p: a + b,
    lambda a, b, p: a - 2 * b,
    lambda a, b, p: a * b,
    lambda a, b, p: (a @ b) * a.new_ones(N),
    lambda a, b, p: torch.where(p["c"] > 1, a, b),
    lambda a, b, p: torch.cat([a[:2], b[2:]]),
    lambda a, b, p: fn.linear(a, V, b),
    lambda a, b, p: torch.addcmul(a, b, p["d"]),
    lambda a, b, p: torch.cross(a[:3], b[1:], dim=0)[[0, 1, 2, 0]],
]
STEPS = st.lists(
    st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0, 99), st.integers(0, 99)),
    min_size=1,
    max_size=6,
)


def grow(steps: list[tuple[int, int, int]], seed: Tensor, p: Params) -> Tensor:
    vectors = [seed, p["c"]]
    for operation, left, right in steps:
        a, b = vectors[-1 - left % len(vectors)], vectors[-1 - right % len(vectors)]
        unary = operation < len(UNARY)
        value = UNARY[operation](a, p) if unary else BINARY[operation - len(UNARY)](a, b, p)
        # Keeps the magnitudes, and so the rounding of the check, near one.
        vectors.append(value / 8)
    return vectors[-1]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(STEPS)
def test_random_trees(steps: list[tuple[int, int, int]]) -> None:
    def function(x: Tensor, p: Params) -> Tensor:
        return grow(steps, x, p)

    found = trace(function, N, PARAMS)
    assert isinstance(found, Polynomial), found
    if found.degree <= 8:
        check_claims(function, found.parts)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(STEPS, st.integers(0, 99))
def test_random_trees_with_a_planted_kink(steps: list[tuple[int, int, int]], where: int) -> None:
    """A tree that applies relu to something that contains x is never proven."""

    def function(x: Tensor, p: Params) -> Tensor:
        cut = where % len(steps)
        inner = grow(steps[:cut], x, p) if cut else x
        return grow(steps[cut:], torch.relu(inner + x), p)

    assert isinstance(trace(function, N, PARAMS), NotPolynomial)


@pytest.mark.parametrize(
    "claim",
    [
        {1: frozenset("c")},
        {1: frozenset("c"), 2: frozenset()},
        {2: frozenset("s")},
        {1: frozenset(), 2: frozenset("s")},
    ],
)
def test_the_numerical_check_finds_wrong_claims(claim: dict[int, frozenset[str]]) -> None:
    def function(x: Tensor, p: Params) -> Tensor:
        return p["c"] @ x + p["s"] * (x @ x)

    check_claims(function, {1: frozenset("c"), 2: frozenset("s")})
    with pytest.raises(AssertionError, match="degree"):
        check_claims(function, claim)
