"""What the layer adds to the raw solver, and what two workers save.

python plugins/foldcore-daqp/benchmarks/overhead.py [daqp] [clarabel] [workers] [--repeat 31]

Each case prints the medians of a hand-written loop over prepared arrays and of ``layer(...)``
without gradient, taken in turns in one process, and their ratio. Processor time is printed beside
wall time, because on a busy machine the former is the steadier. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import joblib
import numpy as np
import torch
from scipy import sparse

import foldcore
from foldcore.testing.problems import declare, random_qp

BATCH = 64


def alternate(
    calls: dict[str, Callable[[], object]], repeat: int
) -> dict[str, tuple[float, float]]:
    """Return the median wall and processor time (milliseconds) of each call, taken in turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeat):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            spent = (time.perf_counter() - wall, time.process_time() - processor)
            times[name].append(spent)
    return {
        name: (
            1e3 * statistics.median(wall for wall, _ in spent),
            1e3 * statistics.median(processor for _, processor in spent),
        )
        for name, spent in times.items()
    }


def report(title: str, times: dict[str, tuple[float, float]], base: str) -> None:
    """Print each median and its ratio to that of ``base``."""
    print(title)
    for name, (wall, processor) in times.items():
        ratios = f"{wall / times[base][0]:6.2f} {processor / times[base][1]:6.2f}"
        print(f"  {name:34s} {wall:8.2f} ms wall {processor:8.2f} ms processor   ratio {ratios}")


def without_gradient(layer: Callable[..., torch.Tensor], **params: torch.Tensor) -> object:
    """Return ``layer(...)`` with nothing recorded."""
    with torch.no_grad():
        return layer(**params)


def dense_qps(batch: int, *, bounds: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """QPs with n = 100, 50 inequalities, 20 equalities, whose q alone varies."""
    data = random_qp(0, 100, 20, 50, bounds=bounds)
    noise = torch.randn(batch, 100, generator=torch.Generator().manual_seed(1)).double()
    return data, data["q"] + 0.3 * noise


def daqp_case(repeat: int) -> None:
    """Compare with hand-written loops over DAQP."""
    import daqp

    data, q = dense_qps(BATCH, bounds=False)
    layer = foldcore.build({"problem": declare(data, ["q"]), "solver": "daqp", "rule": "newton"})
    P, A, b, G, h = (data[name].numpy() for name in ("P", "A", "b", "G", "h"))
    rows, upper = np.vstack([A, G]), np.concatenate([b, h])
    lower = np.concatenate([b, np.full(h.size, -1e30)])
    sense = np.array([5] * b.size + [0] * h.size, dtype=np.intc)
    linear = q.numpy()
    model, reduced = daqp.Model(), daqp.Model()
    reduced.settings = {"eq_reduction": 1}  # the layer's choice for constant matrices
    for native in (model, reduced):
        native.setup(P, linear[0].copy(), rows, upper, lower, sense)

    def updated(model: daqp.Model, cold: bool) -> list[object]:
        answers = []
        for one in linear:
            model.update(f=one, sense=sense if cold else None)
            answers.append(model.solve())
        return answers

    calls: dict[str, Callable[[], object]] = {
        "raw Model.update, cold starts": lambda: updated(model, True),
        "raw, cold starts, eq_reduction=1": lambda: updated(reduced, True),
        "raw Model.update, hot starts": lambda: updated(model, False),
        "raw daqp.solve": lambda: [daqp.solve(P, f, rows, upper, lower, sense) for f in linear],
        "layer": lambda: without_gradient(layer, q=q),
    }
    report("daqp: 64 QPs, n=100, 50 inequalities, 20 equalities", alternate(calls, repeat),
           "raw Model.update, cold starts")  # fmt: skip


def portfolios(n: int) -> tuple[foldcore.QuadraticProgram, torch.Tensor, np.ndarray]:
    """64 QCQPs: a linear return, a budget, no short sales, one limit on the variance."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    problem = foldcore.QuadraticProgram(
        q=foldcore.Param(n),
        A=torch.ones(1, n, dtype=torch.float64),
        b=torch.ones(1, dtype=torch.float64),
        lower=0.0,
        quadratic_P=(factor.mT @ factor)[None],
        quadratic_q=torch.zeros(1, n, dtype=torch.float64),
        quadratic_r=torch.full((1,), 0.03, dtype=torch.float64),
    )
    q = torch.randn(BATCH, n, generator=generator, dtype=torch.float64)
    return problem, q, factor.numpy()


def clarabel_case(repeat: int) -> None:
    """Compare with a hand-written loop over Clarabel."""
    import clarabel

    n = 20
    problem, q, factor = portfolios(n)
    solver = {"kind": "clarabel"}
    layer = foldcore.build({"problem": problem, "solver": solver, "rule": "newton"})
    bare = foldcore.build(
        {
            "problem": problem,
            "solver": {"kind": "clarabel", "polishing": 0},
            "rule": "newton",
            "kkt": {"on_violation": "ignore"},
        }
    )
    r, zero = 0.03, np.zeros((1, n))
    A = sparse.csc_matrix(np.vstack([np.ones((1, n)), -np.eye(n), zero, -factor, zero]))
    b = np.concatenate([[1.0], np.zeros(n), [r + 0.5], np.zeros(n), [r - 0.5]])
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n), clarabel.SecondOrderConeT(n + 2)]
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.presolve_enable = False, False
    linear = q.numpy()
    P = sparse.csc_matrix((n, n))
    native = clarabel.DefaultSolver(P, linear[0], A, b, cones, settings)

    def updated() -> list[object]:
        answers = []
        for one in linear:
            native.update(q=one)
            answers.append(native.solve())
        return answers

    def rebuilt() -> list[object]:
        return [clarabel.DefaultSolver(P, one, A, b, cones, settings).solve() for one in linear]

    calls: dict[str, Callable[[], object]] = {
        "raw DefaultSolver.update": updated,
        "raw DefaultSolver": rebuilt,
        "layer": lambda: without_gradient(layer, q=q),
        "layer, polishing: 0": lambda: without_gradient(bare, q=q),
    }
    title = "clarabel: 64 QCQPs, n=20, one equality, bounds, one quadratic row"
    report(title, alternate(calls, repeat), "raw DefaultSolver.update")


def workers_case(repeat: int) -> None:
    """Compare one worker with two."""
    data, many = dense_qps(8 * BATCH, bounds=True)
    problem = declare(data, ["q"])

    def layer(workers: int) -> Callable[..., torch.Tensor]:
        solver = {"kind": "daqp", "workers": workers}
        return foldcore.build({"problem": problem, "solver": solver, "rule": "newton"})

    one, two = layer(1), layer(2)

    def threads() -> object:
        with joblib.parallel_config(backend="threading"):
            return without_gradient(two, q=many)

    calls: dict[str, Callable[[], object]] = {
        "workers: 1": lambda: without_gradient(one, q=many),
        "workers: 2, joblib's processes": lambda: without_gradient(two, q=many),
        "workers: 2, joblib's threads": threads,
    }
    title = f"daqp: {many.shape[0]} such QPs with bounds, two workers"
    report(title, alternate(calls, max(repeat // 3, 3)), "workers: 1")


CASES = {"daqp": daqp_case, "clarabel": clarabel_case, "workers": workers_case}


def main() -> None:
    """Run the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", default=["daqp", "workers"], metavar="case")
    parser.add_argument("--repeat", type=int, default=31)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for case in arguments.cases:
        CASES[case](arguments.repeat)


if __name__ == "__main__":
    main()
