"""What the layer adds to the raw solver, and what two workers save.

python benchmarks/overhead.py [walk] [osqp] [daqp] [gurobi] [clarabel] [workers] [--repeat 31]

``walk`` prints what one small call costs; see walk.py. Each other case prints hand-written loops over
prepared arrays beside ``layer(...)`` without gradient, run
in turns in one process: medians of wall and processor time (milliseconds), the median over the
rounds of the ratio to the loop marked with *, and the worst scaled KKT residual of the points, with
multipliers recovered from them alike for every row. Raw loops use the settings of the plugin's
defaults, named in each title. On a busy machine the ratio of processor times is the steadier one.
A solver that is missing or has no licence is skipped, with the reason. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch
import walk
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

import foldcore
from foldcore.registry import solvers
from foldcore.testing.problems import declare, random_qp

BATCH = 64
Points = NDArray[np.float64]
Call = Callable[[], Points]


@dataclass(frozen=True)
class Case:
    """Ways to solve the same batch; ``calls[base]`` is what the others are compared with."""

    title: str
    problem: foldcore.QuadraticProgram
    q: Tensor
    calls: Mapping[str, Call]
    base: str

    def report(self, repeat: int) -> None:
        """Print one line per way."""
        print(self.title)
        points = {name: call() for name, call in self.calls.items()}
        times = _alternate(self.calls, repeat)
        for name, spent in times.items():
            wall, processor = np.median(spent, 0)
            ratios = np.median(spent / times[self.base], 0)
            mark = "*" if name == self.base else " "
            print(
                f" {mark}{name:46s} {1e3 * wall:8.2f} ms wall {1e3 * processor:8.2f} ms processor"
                f"   ratio {ratios[0]:5.2f} {ratios[1]:5.2f}   KKT {self._residual(points[name]):.0e}"
            )

    def _residual(self, points: Points) -> float:
        program = self.problem.bind({**self.problem.constants, "q": self.q}, len(points))
        report, _ = foldcore.kkt_report(program, torch.from_numpy(points))
        return float(report.residual.max())


def _alternate(calls: Mapping[str, Call], repeat: int) -> dict[str, Points]:
    """Return wall and processor time (seconds) of each call, (repeat, 2), taken in turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), _processor_time()
            call()
            times[name].append((time.perf_counter() - wall, _processor_time() - processor))
    return {name: np.array(spent) for name, spent in times.items()}


def _processor_time() -> float:
    """Return this process's time; that of joblib's workers is not in it."""
    return time.process_time()


def layer_call(problem: foldcore.QuadraticProgram, q: Tensor, **solver: Any) -> Call:
    """Return a call of the layer with nothing recorded."""
    layer = foldcore.build({"problem": problem, "solver": solver, "rule": "newton"})

    def call() -> Points:
        with torch.no_grad():
            points: Points = layer(q=q).numpy()
        return points

    return call


def dense_qps(
    batch: int, *, bounds: bool
) -> tuple[dict[str, Tensor], foldcore.QuadraticProgram, Tensor]:
    """QPs with n = 100, 50 inequalities, 20 equalities, whose q alone varies."""
    data = random_qp(0, 100, 20, 50, bounds=bounds)
    noise = torch.randn(batch, 100, generator=torch.Generator().manual_seed(1)).double()
    return data, declare(data, ["q"]), data["q"] + 0.3 * noise


def _rows(data: Mapping[str, Tensor]) -> tuple[Points, Points, Points]:
    """Return [A; G] and the limits of its rows."""
    A, b, G, h = (data[name].numpy() for name in ("A", "b", "G", "h"))
    lower = np.concatenate([b, np.full(h.size, -1e30)])
    return np.vstack([A, G]), lower, np.concatenate([b, h])


def daqp_case() -> Case:
    """Compare with hand-written loops over DAQP."""
    import daqp

    data, problem, q = dense_qps(BATCH, bounds=False)
    rows, lower, upper = _rows(data)
    P, linear = data["P"].numpy(), q.numpy()
    sense = np.array([5] * data["b"].numel() + [0] * data["h"].numel(), dtype=np.intc)
    tolerance = 1e-10 * (1 + float(np.abs(upper).max()))

    def prepared(**settings: float) -> Any:
        native = daqp.Model()
        native.settings = {"primal_tol": tolerance, "iter_limit": 10000, **settings}
        native.setup(P, linear[0].copy(), rows, upper, lower, sense)
        return native

    def updated(native: Any, cold: bool) -> Points:
        points = []
        for one in linear:
            native.update(f=one, sense=sense if cold else None)
            points.append(native.solve()[0])
        return np.array(points)

    def scratch() -> Points:
        return np.array([daqp.solve(P, f, rows, upper, lower, sense)[0] for f in linear])

    reduced, whole, hot = prepared(eq_reduction=1), prepared(), prepared(eq_reduction=1)
    calls: dict[str, Call] = {
        "raw, eq_reduction=1, cold starts": lambda: updated(reduced, True),
        "raw, eq_reduction=0, cold starts": lambda: updated(whole, True),
        "raw, eq_reduction=1, hot starts": lambda: updated(hot, False),
        "raw daqp.solve": scratch,
        "layer": layer_call(problem, q, kind="daqp"),
    }
    title = (
        "daqp: 64 QPs, n=100, 50 inequalities, 20 equalities; Model.update and solve; "
        f"primal_tol={tolerance:.1e}"
    )
    return Case(title, problem, q, calls, "raw, eq_reduction=1, cold starts")


def osqp_case() -> Case:
    """Compare with hand-written loops over OSQP."""
    import osqp

    data, problem, q = dense_qps(BATCH, bounds=False)
    rows, lower, upper = _rows(data)
    P, C = sparse.csc_matrix(np.triu(data["P"].numpy())), sparse.csc_matrix(rows)
    linear, zeros = q.numpy(), (np.zeros(100), np.zeros(70))
    decades = [10.0**-k for k in range(3, 10)]

    def prepared() -> Any:
        native = osqp.OSQP(algebra="builtin")
        native.setup(
            P, zeros[0], C, lower, upper, eps_rel=1e-9, eps_abs=1e-9, polishing=True, rho=0.1,
            adaptive_rho=1, max_iter=20000, scaling=10, verbose=False,
        )  # fmt: skip
        return native

    def updated(native: Any, cold: bool) -> Points:
        points = []
        for one in linear:
            native.update(q=one)
            if cold:
                native.update_settings(rho=0.1)
                native.warm_start(*zeros)
            points.append(native.solve(raise_error=False).x.copy())
        return np.array(points)

    def by_decades(native: Any) -> Points:
        points, moved = [], False
        for one in linear:
            if moved:
                native.update_settings(rho=0.1)
            native.update(q=one)
            native.warm_start(*zeros)
            limit, moved = 1e-9 * (1 + float(np.abs(one).max())), False
            for eps in decades:
                native.update_settings(eps_rel=eps, eps_abs=eps)
                result = native.solve(raise_error=False)
                moved = moved or result.info.rho_updates > 0
                if result.info.prim_res <= 1e-9 and result.info.dual_res <= limit:
                    break
            points.append(result.x.copy())
        return np.array(points)

    cold, hot, staged = prepared(), prepared(), prepared()
    calls: dict[str, Call] = {
        "raw, eps 1e-9, cold starts": lambda: updated(cold, True),
        "raw, eps 1e-9, hot starts": lambda: updated(hot, False),
        "raw, eps by decades to 1e-9, cold starts": lambda: by_decades(staged),
        "layer": layer_call(problem, q, kind="osqp"),
    }
    title = (
        "osqp: 64 QPs, n=100, 50 inequalities, 20 equalities; OSQP.update and solve; "
        "rho=0.1, adaptive, polishing, scaling=10"
    )
    return Case(title, problem, q, calls, "raw, eps by decades to 1e-9, cold starts")


def portfolios(n: int) -> tuple[foldcore.QuadraticProgram, Tensor, Points]:
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
        quadratic_r=torch.full((1,), LIMIT, dtype=torch.float64),
    )
    q = torch.randn(BATCH, n, generator=generator, dtype=torch.float64)
    return problem, q, factor.numpy()


LIMIT = 0.03
"""Largest half variance of a portfolio."""


def clarabel_case() -> Case:
    """Compare with hand-written loops over Clarabel."""
    import clarabel

    n = 20
    problem, q, factor = portfolios(n)
    factor = factor / np.sqrt(np.abs(factor.T @ factor).max())
    r = LIMIT / np.abs(problem.quadratic_P.numpy()).max()
    zero = np.zeros((1, n))
    A = sparse.csc_matrix(np.vstack([np.ones((1, n)), -np.eye(n), zero, -factor, zero]))
    b = np.concatenate([[1.0], np.zeros(n), [r + 0.5], np.zeros(n), [r - 0.5]])
    cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n), clarabel.SecondOrderConeT(n + 2)]
    P, linear = sparse.csc_matrix((n, n)), q.numpy()

    def settings(tolerance: float) -> Any:
        found = clarabel.DefaultSettings()
        found.verbose, found.presolve_enable, found.max_threads = False, False, 0
        found.tol_gap_abs = found.tol_gap_rel = found.tol_feas = tolerance
        return found

    def updated(tolerance: float) -> Call:
        native = clarabel.DefaultSolver(P, linear[0], A, b, cones, settings(tolerance))

        def call() -> Points:
            points = []
            for one in linear:
                native.update(q=one)
                points.append(native.solve().x)
            return np.array(points)

        return call

    calls: dict[str, Call] = {
        "raw, tolerances 1e-8": updated(1e-8),
        "raw, tolerances 1e-13": updated(1e-13),
        "layer, polishing: 0": layer_call(problem, q, kind="clarabel", polishing=0),
        "layer": layer_call(problem, q, kind="clarabel"),
    }
    title = (
        "clarabel: 64 QCQPs, n=20, one equality, bounds, one quadratic row; "
        "DefaultSolver.update and solve"
    )
    return Case(title, problem, q, calls, "raw, tolerances 1e-8")


def gurobi_case() -> Case:
    """Compare with a hand-written loop over Gurobi."""
    import gurobipy as gp

    n = 20
    problem, q, _ = portfolios(n)
    environment = gp.Env(empty=True)
    environment.setParam("OutputFlag", 0)
    environment.start()
    parameters = {
        "FeasibilityTol": 1e-9, "OptimalityTol": 1e-9, "BarConvTol": 1e-9, "BarQCPConvTol": 1e-9,
        "QCPDual": 1, "Threads": 1,
    }  # fmt: skip
    hessian, linear = problem.quadratic_P.numpy()[0], q.numpy()

    def prepared() -> tuple[Any, Any]:
        native = gp.Model(env=environment)
        for name, value in parameters.items():
            native.setParam(name, value)
        x = native.addMVar(n, lb=0.0)
        native.addConstr(x.sum() == 1.0)
        native.addConstr(x @ (hessian / 2) @ x <= LIMIT)
        native.update()
        return native, x

    def updated(native: Any, x: Any, duals: bool) -> Points:
        points = []
        for one in linear:
            x.Obj = one
            native.reset(1)
            native.optimize()
            points.append(x.X)
            if duals:
                native.getAttr("Pi", native.getConstrs())
                native.getAttr("QCPi", native.getQConstrs())
                x.getAttr("RC")
        return np.array(points)

    without, with_duals = prepared(), prepared()
    calls: dict[str, Call] = {
        "raw, x alone": lambda: updated(*without, False),
        "raw, x and multipliers": lambda: updated(*with_duals, True),
        "layer": layer_call(problem, q, kind="gurobi"),
    }
    title = (
        "gurobi: 64 QCQPs, n=20, one equality, bounds, one quadratic row; Obj, reset, optimize; "
        "QCPDual=1, Threads=1, tolerances 1e-9"
    )
    return Case(title, problem, q, calls, "raw, x and multipliers")


def _workers_case(kind: str) -> Case:
    """Compare one worker with two."""
    _, problem, q = dense_qps(8 * BATCH, bounds=True)
    one = layer_call(problem, q, kind=kind)
    two, again = (layer_call(problem, q, kind=kind, workers=2) for _ in range(2))

    def threads() -> Points:
        with joblib.parallel_config(backend="threading"):
            return again()

    calls: dict[str, Call] = {
        "workers: 1": one,
        "workers: 2, joblib's processes": two,
        "workers: 2, joblib's threads": threads,
    }
    title = f"{kind}: {q.shape[0]} such QPs with bounds, {os.cpu_count()} cores; the layer"
    return Case(title, problem, q, calls, "workers: 1")


def _cases(name: str) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Yield the solver that each case of a name needs, and the case."""
    if name == "workers":
        yield "osqp", lambda: _workers_case("osqp")
        yield "daqp", lambda: _workers_case("daqp")
    else:
        yield name, CASES[name]


CASES: dict[str, Callable[[], Case]] = {
    "osqp": osqp_case, "daqp": daqp_case, "gurobi": gurobi_case, "clarabel": clarabel_case,
}  # fmt: skip


def _missing(kind: str) -> str | None:
    """Return why a solver's cases cannot run here, or None."""
    if importlib.util.find_spec(f"foldcore_{kind}") is None:
        return f"foldcore-{kind} is not installed"
    return solvers.load(kind).unusable_reason()


def main() -> None:
    """Run the chosen cases."""
    names = ["walk", *CASES, "workers"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(names)}")
    parser.add_argument("--repeat", type=int, default=31, help="rounds (count)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cases) - set(names))
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; choose from {', '.join(names)}")
    torch.set_num_threads(1)
    for name in arguments.cases or names:
        if name == "walk":
            walk.report(20 * arguments.repeat)  # a call takes less than a millisecond
            continue
        for kind, case in _cases(name):
            reason = _missing(kind)
            if reason is not None:
                print(f"{kind}: skipped, {reason}")
                continue
            repeat = arguments.repeat if name != "workers" else max(arguments.repeat // 3, 3)
            case().report(repeat)


if __name__ == "__main__":
    main()
