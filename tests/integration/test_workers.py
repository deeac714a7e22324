"""Many cores: the same numbers through joblib's own backends and a Dask cluster."""

from __future__ import annotations

import joblib
import pytest
import torch
from torch import Tensor

import foldcore as fc
from foldcore.testing.problems import declare, random_qp

pytest.importorskip("foldcore_daqp", reason="solves with foldcore-daqp")
pytest.importorskip("foldcore_newton", reason="folds with foldcore-newton")
pytest.importorskip("foldcore_direct", reason="folds with foldcore-direct")


def solution_and_gradient(workers: int) -> tuple[Tensor, Tensor]:
    data = random_qp(0, 6, 1, 2, batch=9)
    shared = {name: value if name == "q" else value[0] for name, value in data.items()}
    layer = fc.build(
        {"problem": declare(shared, {"q"}), "solver": {"kind": "daqp", "workers": workers},
         "rule": "newton", "adjoint": "direct"}
    )  # fmt: skip
    q = data["q"].clone().requires_grad_()
    first = layer(q=q)
    again = layer(q=q)  # the workers' models are there already
    assert torch.equal(first, again)
    first.square().sum().backward()
    assert q.grad is not None
    return first.detach(), q.grad


@pytest.fixture(scope="module")
def alone() -> tuple[Tensor, Tensor]:
    return solution_and_gradient(1)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib_backends_give_the_same_bits(backend: str, alone: tuple[Tensor, Tensor]) -> None:
    with joblib.parallel_config(backend=backend):
        x, gradient = solution_and_gradient(2)
    assert torch.equal(x, alone[0])
    assert torch.equal(gradient, alone[1])


def test_a_dask_cluster_of_two_workers_gives_the_same_bits(alone: tuple[Tensor, Tensor]) -> None:
    distributed = pytest.importorskip("distributed", reason="needs dask[distributed]")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        x, gradient = solution_and_gradient(2)
    assert torch.equal(x, alone[0])
    assert torch.equal(gradient, alone[1])
