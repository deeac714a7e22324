"""Newton's step and its adjoint, beside one factorisation of the reduced system.

python benchmarks/kkt.py [dense] [sparse] [projections] [--repeat 31]

dense: QPs whose solution, multipliers and active set (about half of the inequalities) are known. One
step of the ``newton`` rule on the graph plus its backward pass, for all data that vary, beside one
batched torch factorisation (LU) of the systems of the active rows alone, padded to one size: one per
sample, where a sample has its own P, A and G, and where the batch shares them. Beside it, what a
hand-written Cholesky of P and of the Schur complement takes.

projections: the step of ``newton`` at the nearest point of a simplex and of a box, n = 1000, batch 128,
and its adjoint, beside the closed form in torch and its backward pass.

sparse: the step and its adjoint beside the raw factorisation and two solves of the same reduced system:
SuperLU in symmetric mode, as the engine factors, and qdldl where it is installed.

Medians over rounds in which each way takes its turn; ratios are medians over the rounds. Set
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from foldcore_newton import NewtonConfig, NewtonRule
from torch import Tensor

import foldcore as fc
from foldcore.numerics.sparse import SparseMatrix

try:
    import qdldl
except ImportError:  # no dependency of foldcore's: beside it where it is there
    qdldl = None

F64 = torch.float64


def timed(ways: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    """Return seconds per way and round; each round runs every way once."""
    for way in ways.values():
        way()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            spent[name].append(time.perf_counter() - start)
    return spent


def report(title: str, ways: Mapping[str, Callable[[], object]], base: str, repeat: int) -> None:
    """Print milliseconds and the ratio to the base, per way."""
    spent = timed(ways, repeat)
    print(title)
    for name, times in spent.items():
        ratio = np.median(np.array(times) / np.array(spent[base]))
        mark = "*" if name == base else " "
        print(
            f" {mark}{name:44s} {1e3 * np.median(times):9.3f} ms   ratio {ratio:5.2f}", flush=True
        )


def known_qp(
    batch: int, n: int, p: int, m: int, shared: bool
) -> tuple[dict[str, Tensor], fc.Solution, Tensor]:
    """Return data, their solution by construction, and which inequalities are active."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    lead = () if shared else (batch,)
    root = draw(*lead, n, n)
    P = root @ root.mT / n + torch.eye(n, dtype=F64)
    A, G = draw(*lead, p, n), draw(*lead, m, n)
    x, nu = draw(batch, n), draw(batch, p)
    active = torch.rand(batch, m, generator=generator) < 0.45
    size = 0.5 + torch.rand(batch, m, generator=generator, dtype=F64)
    mu = torch.where(active, size, 0.0)
    h = fc.matvec(G, x) + torch.where(active, 0.0, size)
    q = -fc.matvec(P, x) - fc.rmatvec(A, nu) - fc.rmatvec(G, mu)
    zero = torch.zeros_like(x)
    solution = fc.Solution(x, (fc.Status.OPTIMAL,) * batch, fc.Duals(nu, mu, zero, zero))
    return {"P": P, "q": q, "A": A, "b": fc.matvec(A, x), "G": G, "h": h}, solution, active


def newton(
    data: Mapping[str, Any], solution: fc.Solution, varying: set[str]
) -> Callable[[], object]:
    """Return the rule's step on the graph with its backward pass, for the fields that vary."""
    batch, n = solution.primal.shape
    # Constants first: what sessions keep of them is made once, as in a layer.
    problem = fc.QuadraticProgram(
        **{
            name: fc.Param(*(value.shape[1:] if name in varying else value.shape), name=name)
            if name in varying
            else declared(value)
            for name, value in data.items()
        }
    )
    rule = NewtonRule(NewtonConfig())
    prepared = rule.open(problem.structure)
    leaves = {name: data[name].clone().requires_grad_() for name in sorted(varying)}
    weights = torch.ones(batch, n, dtype=F64)
    # The program of the leaves themselves: what binding does to a parameter is no part of the step.
    program = fc.SmoothProgram(
        fc.QuadraticData(n, **{**data, **leaves}),
        batch=batch,
        structure=problem.structure,
        params={},
    )

    def run() -> object:
        bound = prepared.bind(program, {}, frozenset(varying))
        with torch.no_grad():
            state = bound.lift(solution)
        x = bound.primal(bound.step(state))
        return torch.autograd.grad((x * weights).sum(), list(leaves.values()))

    return run


def declared(value: Any) -> Any:
    """Return a constant as a problem declares it."""
    if isinstance(value, SparseMatrix):
        return fc.Sparse(value.rows, value.cols, value.shape, value.values)
    return value


def reduced(data: dict[str, Tensor], active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the systems of the active rows, padded to one size, and P and the active rows."""
    batch, m = active.shape
    n = data["q"].shape[-1]
    most = int(active.sum(-1).max())
    where = torch.argsort(~active, dim=-1, stable=True)[:, :most]
    there = active.gather(-1, where)
    G = data["G"].expand(batch, m, n)
    chosen = G.gather(1, where.unsqueeze(-1).expand(-1, -1, n)) * there.unsqueeze(-1)
    A = data["A"].expand(batch, *data["A"].shape[-2:])
    rows = torch.cat([A, chosen], -2)
    k = rows.shape[-2]
    corner = torch.zeros(batch, k, k, dtype=F64)
    corner.diagonal(dim1=-2, dim2=-1)[:, A.shape[-2] :] = (~there).to(F64)
    P = data["P"].expand(batch, n, n)
    matrix = torch.cat([torch.cat([P, rows.mT], -1), torch.cat([rows, corner], -1)], -2)
    return matrix, P.contiguous(), rows


def dense(repeat: int) -> None:
    """Print the dense cases."""
    for n, p, m, batch in ((100, 20, 50, 64), (500, 100, 250, 8), (10, 2, 5, 512)):
        for shared in (False, True):
            data, solution, active = known_qp(batch, n, p, m, shared)
            matrix, P, rows = reduced(data, active)
            varying = {"q", "h", "b"} if shared else set(data)

            def by_hand(P: Tensor = P, rows: Tensor = rows) -> object:
                factor, _ = torch.linalg.cholesky_ex(P)
                half = torch.linalg.solve_triangular(factor, rows.mT, upper=False)
                schur = half.mT @ half + 1e-8 * torch.eye(rows.shape[-2], dtype=F64)
                return torch.linalg.cholesky_ex(schur)

            report(
                f"n = {n}, {m} inequalities, {p} equalities, batch {batch}, "
                f"{'P, A, G shared' if shared else 'all data per sample'}",
                {
                    "torch: one batched LU of the reduced systems": lambda M=matrix: (
                        torch.linalg.lu_factor_ex(M)
                    ),
                    "torch: Cholesky and Schur complement by hand": by_hand,
                    "newton: step and adjoint": newton(data, solution, varying),
                },
                "torch: one batched LU of the reduced systems",
                repeat,
            )


def sparse(repeat: int) -> None:
    """Print the sparse cases."""
    for kind, n in (("banded", 2000), ("banded", 5000), ("banded", 20000), ("random", 2000)):
        k = n // 5
        generator = np.random.default_rng(0)
        lower: Any
        if kind == "banded":
            bands = [generator.standard_normal(n - j) for j in range(4)]
            lower = scipy.sparse.diags(bands, [0, -1, -2, -3], shape=(n, n))
        else:
            lower = scipy.sparse.eye(n) + scipy.sparse.random(n, n, 2 / n, random_state=0)
        P = (lower @ lower.T + scipy.sparse.eye(n)).tocoo()
        where = np.repeat(np.arange(k), 3)
        spread = (
            generator.integers(0, n, 3 * k) if kind == "random" else np.arange(3 * k) * n // (3 * k)
        )
        G = scipy.sparse.coo_matrix((generator.standard_normal(3 * k), (where, spread)), (k, n))
        data, solution, active = known_sparse(P, G)
        reduced_system = shifted(P, G, active)
        ways: dict[str, Callable[[], object]] = {
            "SuperLU, one factorisation and two solves": lambda M=reduced_system: superlu(M)
        }
        if qdldl is not None:
            upper = scipy.sparse.triu(reduced_system).tocsc()
            ways["qdldl, one factorisation and two solves"] = lambda M=upper: raw_qdldl(M)
        ways["newton: step and adjoint"] = newton(data, solution, {"q", "h"})
        base = list(ways)[-2]
        report(f"{kind}, n = {n}, {k} inequalities, one sample", ways, base, repeat)


def known_sparse(P: Any, G: Any) -> tuple[dict[str, Any], fc.Solution, Tensor]:
    """Return sparse data, their solution by construction, and the active rows."""
    n, k = P.shape[0], G.shape[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, n, generator=generator, dtype=F64)
    active = torch.rand(1, k, generator=generator) < 0.5
    matrices = {
        name: SparseMatrix(
            torch.from_numpy(m.row.astype(np.int64)), torch.from_numpy(m.col.astype(np.int64)),
            m.shape, torch.from_numpy(m.data),
        )
        for name, m in (("P", P), ("G", G))
    }  # fmt: skip
    mu = torch.where(active, 1.0, 0.0).double()
    h = fc.matvec(matrices["G"], x) + torch.where(active, 0.0, 1.0)
    q = -fc.matvec(matrices["P"], x) - fc.rmatvec(matrices["G"], mu)
    zero = torch.zeros_like(x)
    solution = fc.Solution(x, (fc.Status.OPTIMAL,), fc.Duals(x[:, :0], mu, zero, zero))
    return {**matrices, "q": q, "h": h}, solution, active[0]


def shifted(P: Any, G: Any, active: Tensor) -> Any:
    """Return the reduced system with the shift that both raw factorisations need."""
    rows = G.tocsr()[active.numpy()]
    corner = -1e-8 * scipy.sparse.eye(rows.shape[0])
    return scipy.sparse.bmat([[P, rows.T], [rows, corner]]).tocsc()


def superlu(matrix: Any) -> object:
    """Factor and solve twice."""
    factor = scipy.sparse.linalg.splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    right = np.ones(matrix.shape[0])
    return factor.solve(factor.solve(right))


def raw_qdldl(upper: Any) -> object:
    """Factor and solve twice."""
    factor = qdldl.Solver(upper, upper=True)
    right = np.ones(upper.shape[0])
    return factor.solve(factor.solve(right))


def projections(repeat: int) -> None:
    """Print the projections."""
    n, batch = 1000, 128
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, n, generator=generator, dtype=F64)
    one = torch.ones(1, n, dtype=F64)
    simplex = {"P": torch.eye(n, dtype=F64), "q": q, "A": one, "b": torch.ones(1, dtype=F64),
               "lower": torch.zeros(n, dtype=F64)}  # fmt: skip
    box = {"P": torch.eye(n, dtype=F64), "q": q, "lower": torch.zeros(n, dtype=F64),
           "upper": torch.ones(n, dtype=F64)}  # fmt: skip

    def on_simplex(q: Tensor) -> Tensor:
        ordered = (-q).sort(-1, descending=True).values
        levels = (ordered.cumsum(-1) - 1) / torch.arange(1, n + 1, dtype=F64)
        count = (ordered > levels).sum(-1, keepdim=True)
        return (-q - levels.gather(-1, count - 1)).clamp(min=0)

    def in_box(q: Tensor) -> Tensor:
        return (-q).clamp(0.0, 1.0)

    cases: list[tuple[str, dict[str, Any], Callable[[Tensor], Tensor]]] = [
        ("simplex", simplex, on_simplex),
        ("box", box, in_box),
    ]
    for name, data, closed in cases:
        x = closed(q)
        slope = x + q
        nu = -slope.mean(-1, keepdim=True) * 0
        if name == "simplex":
            held = x > 0
            nu = -(slope * held).sum(-1, keepdim=True) / held.sum(-1, keepdim=True)
        force = slope + nu
        low, high = force.clamp(min=0), (-force).clamp(min=0)
        duals = fc.Duals(
            nu if name == "simplex" else x[:, :0], x[:, :0], low * (x == 0), high * (x == 1)
        )
        solution = fc.Solution(x, (fc.Status.OPTIMAL,) * batch, duals)
        leaf = q.clone().requires_grad_()

        def by_hand(closed: Callable[[Tensor], Tensor] = closed, leaf: Tensor = leaf) -> object:
            return torch.autograd.grad(closed(leaf).sum(), leaf)

        report(
            f"nearest point of a {name}, n = {n}, batch {batch}",
            {"torch: closed form and backward": by_hand,
             "newton: step and adjoint": newton(data, solution, {"q"})},
            "torch: closed form and backward",
            repeat,
        )  # fmt: skip


def main() -> None:
    """Print the cases that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[], help="dense; all where none is named")
    parser.add_argument("--repeat", type=int, default=31)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()}")
    cases = {"dense": dense, "sparse": sparse, "projections": projections}
    for name in given.cases or cases:
        cases[name](given.repeat)


if __name__ == "__main__":
    main()
