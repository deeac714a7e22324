"""The KKT engine by itself: exact, differentiable to any order, factored once, nothing of size n²."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import foldcore as fc
from foldcore.kkt import KKTSystem

F64 = torch.float64
B, N, K = 4, 9, 5

pytest.importorskip("foldcore_newton", reason="its step is counted")
pytest.importorskip("foldcore_gmres", reason="its adjoint")


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def data(form: str, batch: int = B, n: int = N, k: int = K) -> dict[str, Any]:
    """Return H, C and masks; ``form`` says which of them are the batch's, diagonal, or have bounds."""
    lead = () if "shared" in form else (batch,)
    root = draw(1, *lead, n, n)
    hessian = root @ root.mT / n + torch.eye(n, dtype=F64)
    if "diagonal" in form:
        hessian = hessian.diagonal(dim1=-2, dim2=-1).clone()
    active = draw(3, batch, k) > -0.3
    fixed = draw(4, batch, n) > 0.8 if "bounds" in form else None
    rows = draw(2, *lead, k, n)
    if "twice" in form:
        rows[..., 1, :] = -3 * rows[..., 0, :]
        active[:, :2] = True
    if "saddle" in form:
        hessian = hessian - 3 * torch.eye(n, dtype=F64)
    if "zero" in form:
        hessian = torch.zeros_like(hessian)
    return {
        "hessian": hessian, "rows": rows, "active": active, "fixed": fixed,
        "diagonal": "diagonal" in form,
    }  # fmt: skip


def assembled(system: KKTSystem) -> Tensor:
    operator = system.operator
    unit = torch.eye(operator.size, dtype=F64)
    columns = [operator.product(unit[j].expand(operator.batch, -1)) for j in range(operator.size)]
    return torch.stack(columns, -1)


FORMS = [
    "per sample", "shared", "per sample, bounds", "shared, bounds", "diagonal, bounds",
    "shared, diagonal", "shared, diagonal, bounds", "twice", "shared, twice, bounds", "saddle",
    "diagonal, twice, bounds", "zero", "zero, bounds", "zero, shared, diagonal, bounds",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_solve_is_the_product_with_the_pseudo_inverse(form: str) -> None:
    system = KKTSystem(**data(form))
    matrix = assembled(system)
    assert torch.equal(matrix, matrix.mT)
    right = (matrix @ draw(5, B, system.operator.size, 1)).squeeze(-1)
    expected = (torch.linalg.pinv(matrix, hermitian=True) @ right.unsqueeze(-1)).squeeze(-1)
    found = system.solve(right)
    assert (found - expected).abs().max() <= 1e-11 * (1 + expected.abs().max())
    assert system.residual(right, found).max() <= 1e-13
    rank = torch.linalg.matrix_rank(matrix, hermitian=True)
    assert torch.equal(system.factors.nullity, system.operator.size - rank)


@pytest.mark.parametrize("form", ["twice", "shared, twice, bounds", "zero"])
def test_the_solution_nearest_to_a_start_keeps_what_the_system_leaves_open(form: str) -> None:
    system = KKTSystem(**data(form))
    matrix = assembled(system)
    start = draw(6, B, system.operator.size)
    right = (matrix @ start.unsqueeze(-1)).squeeze(-1)
    assert (system.solve(right, start) - start).abs().max() <= 1e-12
    null = system.factors.null_vectors
    assert null.shape[-1] >= 1
    assert (matrix @ null).abs().max() <= 1e-12


def test_inertia_tells_a_saddle_from_a_minimum() -> None:
    """The reduced Hessian's eigenvalues, computed on a basis of the null space, say the same."""
    for form, expected in (("per sample", False), ("saddle", True)):
        given = data(form)
        factors = KKTSystem(**given).factors
        for i in range(B):
            rows = given["rows"][i][given["active"][i]]
            _, _, basis = torch.linalg.svd(rows)
            free = basis[len(rows) :].mT
            negative = torch.linalg.eigvalsh(free.mT @ given["hessian"][i] @ free)[0] < 0
            assert bool(negative) is expected
            assert bool(factors.nonconvex[i]) is expected


@pytest.mark.parametrize(
    "form",
    ["per sample", "shared", "per sample, bounds", "shared, bounds", "diagonal, bounds",
     "shared, diagonal"],
)  # fmt: skip
def test_first_and_second_derivatives(form: str) -> None:
    given = data(form, batch=2, n=6, k=2)
    hessian, rows = given.pop("hessian"), given.pop("rows")
    size = KKTSystem(hessian, rows, **given).operator.size

    def solve(hessian: Tensor, rows: Tensor, right: Tensor) -> Tensor:
        symmetric = hessian if given["diagonal"] else (hessian + hessian.mT) / 2
        return KKTSystem(symmetric, rows, **given).solve(right)

    leaves = [v.requires_grad_() for v in (hessian, rows, draw(7, 2, size))]
    assert torch.autograd.gradcheck(solve, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(solve, leaves)


def test_derivatives_by_functional_transforms() -> None:
    given = data("per sample, bounds", batch=2, n=6, k=2)
    system = KKTSystem(**given)
    right = draw(8, 2, system.operator.size)
    jacobian = torch.func.jacrev(lambda r: KKTSystem(**given).solve(r)[0])(right)[:, 0]
    inverse = torch.linalg.inv(assembled(system)[0])
    assert (jacobian - inverse).abs().max() <= 1e-12


class Counter(TorchFunctionMode):
    """Counts factorisations and records the largest result of any operation."""

    NAMES = ("cholesky_ex", "lu_factor_ex", "solve_ex", "eigh", "svd", "ldl_factor_ex", "qr", "inv")

    def __init__(self) -> None:
        super().__init__()
        self.factored: list[tuple[int, ...]] = []
        self.largest = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        short = getattr(func, "__name__", "").removeprefix("linalg_")
        if short in self.NAMES:
            self.factored.append(tuple(args[0].shape))
        for one in result if isinstance(result, tuple) else (result,):
            if isinstance(one, Tensor):
                self.largest = max(self.largest, one.numel())
        return result


def test_a_diagonal_hessian_makes_nothing_of_size_n_squared() -> None:
    """Nearest point of the simplex, P = I as a dense constant: the layer's call and its gradient."""
    n, batch = 300, 2
    problem = fc.QuadraticProgram(
        P=torch.eye(n, dtype=F64), q=fc.Param(n), A=torch.ones(1, n, dtype=F64),
        b=torch.ones(1, dtype=F64), lower=0.0,
    )  # fmt: skip

    def answer(program: fc.SmoothProgram) -> fc.Solution:
        q = program.data.q
        ordered = (-q).sort(-1, descending=True).values
        levels = (ordered.cumsum(-1) - 1) / torch.arange(1, n + 1, dtype=F64)
        count = (ordered > levels).sum(-1, keepdim=True)
        nu = -levels.gather(-1, count - 1)
        x = (-q + nu).clamp(min=0)
        low = torch.where(x > 0, 0.0, q - nu)
        none = torch.zeros_like(x)
        return fc.Solution(x, (fc.Status.OPTIMAL,) * batch, fc.Duals(-nu, none[:, :0], low, none))

    layer = fc.build({"problem": problem, "solver": fc.solver(answer), "rule": "newton",
                      "adjoint": "gmres"})  # fmt: skip
    q = draw(9, batch, n).requires_grad_()
    layer(q=q).sum().backward()  # sessions are opened, constants looked at
    weights = draw(10, batch, n)
    q.grad = None
    with Counter() as forward:
        x = layer(q=q)
    with Counter() as backward:
        x.backward(weights)
    # P itself is looked at, never changed: what the rule makes of it is its diagonal.
    assert forward.factored == [(batch, 1, 1)]
    assert backward.factored == []
    assert backward.largest < 10 * batch * n
    free = (x.detach() > 0).to(F64)
    expected = -free * (
        weights - (weights * free).sum(-1, keepdim=True) / free.sum(-1, keepdim=True)
    )
    assert q.grad is not None
    assert (q.grad - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("shared", [False, True])
def test_one_factorisation_in_forward_plus_backward(shared: bool) -> None:
    """One of H and one of the Schur complement; none of either in the backward pass."""
    from foldcore.testing.problems import declare, random_qp

    fields = ("P", "q", "A", "b", "G", "h")
    one = random_qp(0, 20, n_equality=3, n_inequality=6, batch=None if shared else 5)
    values = {name: one[name] for name in fields}
    if shared:
        values["q"] = one["q"] + 0.01 * draw(11, 5, 20)
    declared = {k: one[k] if shared else one[k][0] for k in fields}
    layer = fc.build({"problem": declare(declared, set(fields)), "rule": "newton",
                      "adjoint": "gmres"})  # fmt: skip
    leaves = {k: v.clone().requires_grad_() for k, v in values.items()}
    with Counter() as forward:
        x = layer(**leaves)
    with Counter() as backward:
        x.sum().backward()
    large = [shape for shape in forward.factored if shape[-1] == 20]
    assert large == [(20, 20)] if shared else [(5, 20, 20)], forward.factored
    assert backward.factored == []
    assert all(v.grad is not None for v in leaves.values())
