"""Newton's step and its adjoint, beside one factorisation of the reduced system.

python benchmarks/kkt.py [dense] [projections] [sparse] [--repeat 31]

dense: QPs whose solution, multipliers and active set (about half of the inequalities) are known. One
step of the ``newton`` rule on the graph plus its backward pass, for all data that vary, beside one
batched torch factorisation (LU) of the systems of the active rows alone, padded to one size: one per
sample, where a sample has its own P, A and G, and where the batch shares them. Beside it, what a
hand-written Cholesky of P and of the Schur complement takes.

projections: the nearest point of a simplex, box, l1 ball by ``newton`` or the set's own closed form,
beside that closed form in torch with autograd.

sparse: the step beside the raw qdldl factorisation and two solves of the same systems.

Medians over rounds in which each way takes its turn; ratios are medians over the rounds. Set
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from foldcore_newton import NewtonConfig, NewtonRule
from torch import Tensor

import foldcore as fc

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
    data: dict[str, Tensor], solution: fc.Solution, varying: set[str]
) -> Callable[[], object]:
    """Return the rule's step on the graph with its backward pass, for the fields that vary."""
    batch, n = solution.primal.shape
    # Constants first: what sessions keep of them is made once, as in a layer.
    problem = fc.QuadraticProgram(
        **{
            name: fc.Param(*(value.shape[1:] if name in varying else value.shape), name=name)
            if name in varying
            else value
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


def main() -> None:
    """Print the cases that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=[], help="dense; all where none is named")
    parser.add_argument("--repeat", type=int, default=31)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()}")
    cases = {"dense": dense}
    for name in given.cases or cases:
        cases[name](given.repeat)


if __name__ == "__main__":
    main()
