"""Which objectives are proven sums over single variables, and what their diagonal Hessian is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.problem.recognition.separable import is_separable

N = 5
Function = Callable[[Tensor, Mapping[str, Tensor]], Tensor]

SEPARABLE: dict[str, Function] = {
    "entropy": lambda x, p: (x * x.log()).sum() - p["c"] @ x,
    "binary entropy": lambda x, p: -(p["c"] * x).sum() + _binary(x).sum() * p["t"],
    "squared distance": lambda x, p: 0.5 * ((x - p["c"]) ** 2).sum(),
    "dot with itself": lambda x, p: x @ x - p["c"].dot(x) + 3,
    "entr and mean": lambda x, p: -torch.special.entr(x).sum() + x.mean(),
    "xlogy": lambda x, p: torch.xlogy(x, x).sum(),
    "exponential": lambda x, p: (p["c"] * torch.exp(-x) / 2).sum(),
    "powers": lambda x, p: x.pow(4).sum() + (2**x).sum(),
    "softplus": lambda x, p: torch.nn.functional.softplus(x).sum(),
    "sum of a product": lambda x, p: torch.sum(x * x * p["c"]) - torch.inner(x, p["c"]),
    "constant": lambda x, p: p["t"] * 1.0,
}
COUPLED: dict[str, Function] = {
    "norm": lambda x, p: x.norm(),
    "quadratic form": lambda x, p: x @ p["M"] @ x,
    "matrix first": lambda x, p: (p["M"] @ x) @ x,
    "square of a sum": lambda x, p: x.sum() ** 2,
    "torch.square of a sum": lambda x, p: torch.square(x.sum()),
    "product of sums": lambda x, p: x.sum() * x.sum(),
    "log of a sum": lambda x, p: torch.log(x.sum()),
    "logsumexp": lambda x, p: torch.logsumexp(x, 0),
    "neighbours": lambda x, p: (x * x.roll(1)).sum(),
    "entries": lambda x, p: x[0] * x[1],
    "x times its sum": lambda x, p: (x * x.sum()).sum(),
    "x plus its sum": lambda x, p: ((x + x.sum()) ** 2).sum(),
    "x over its sum": lambda x, p: (x / x.sum()).sum(),
    "power of a sum": lambda x, p: 2 ** x.sum(),
    "maximum": lambda x, p: x.max(),
    "outer product": lambda x, p: (x * x[:, None]).sum(),
    "broadcast by a matrix": lambda x, p: (x * p["M"]).sum(),
    "cumulative sum": lambda x, p: (x.cumsum(0) ** 2).sum(),
    "softmax": lambda x, p: torch.softmax(x, 0).sum(),
    "reversed": lambda x, p: torch.dot(x, x.flip(0)),
    "branch": lambda x, p: x.sum() if x[0] > 0 else (x * x.roll(1)).sum(),
    "in place": lambda x, p: x.clone().mul_(x.roll(1)).sum(),
    "random": lambda x, p: (x * torch.randn(N, dtype=torch.float64)).sum(),
    "detached": lambda x, p: (x * x.detach().roll(1)).sum(),
}


def _binary(x: Tensor) -> Tensor:
    return x * torch.log(x) + (1 - x) * torch.log(1 - x)


def params() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"c": (N,), "t": (), "M": (N, N)}
    return {
        name: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("name", SEPARABLE)
def test_a_sum_over_variables_is_proven_and_its_hessian_is_diagonal(name: str) -> None:
    function, given = SEPARABLE[name], params()
    assert is_separable(function, N, given)
    x = torch.linspace(0.2, 0.8, N, dtype=torch.float64)
    hessian = torch.func.hessian(lambda v: function(v, given))(x)
    assert torch.equal(hessian, torch.diag(hessian.diagonal()))


@pytest.mark.parametrize("name", COUPLED)
def test_nothing_that_couples_variables_is_taken_for_one(name: str) -> None:
    assert not is_separable(COUPLED[name], N, params())


def test_a_single_variable_is_separable_whatever_the_function() -> None:
    assert is_separable(lambda x, p: (x**2).sum(), 1, {})


@pytest.mark.parametrize("batched", [True, False])
def test_a_problems_hessian_is_that_of_autograd(batched: bool) -> None:
    problem = fc.Problem(
        N,
        lambda x, c: -(c @ x) + _binary(x).sum(),
        {"c": fc.Param(N)},
        equality=lambda x: x.sum().reshape(1) - 2,
        lower=0.0,
        upper=1.0,
    )
    assert problem.structure.separable_objective
    c = torch.rand(3, N, dtype=torch.float64) if batched else torch.rand(N, dtype=torch.float64)
    program = problem.bind({**problem.constants, "c": c}, 3)
    x = torch.rand(3, N, dtype=torch.float64) * 0.8 + 0.1
    diagonal = program.hessian_diagonal(x)
    assert diagonal is not None
    assert torch.allclose(diagonal, 1 / x + 1 / (1 - x), rtol=1e-12)
    assert torch.equal(program.hessian(x), torch.diag_embed(diagonal))


def test_a_coupled_objective_has_no_diagonal() -> None:
    problem = fc.Problem(N, lambda x: torch.logsumexp(x, 0))
    assert not problem.structure.separable_objective
    program = problem.bind(dict(problem.constants), 1)
    assert program.hessian_diagonal(torch.zeros(1, N, dtype=torch.float64)) is None
