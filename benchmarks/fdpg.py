"""Total variation denoising with a learned D by foldcore-fdpg: times, and ratios to another checkout.

OMP_NUM_THREADS=1 python benchmarks/fdpg.py [--against DIRECTORY] [--repeat 15]

Minimise ½‖x - d‖² + λ‖Dx‖₁ with n = 100 and one D, 99 x 100, shared by the batch: a forward pass
without gradient, and a training step (forward and backward in D). With ``--against``, a second process
imports foldcore and foldcore-fdpg from that checkout; the two take turns call by call, and each ratio
is the median over the rounds of its time by ours. Processor times in milliseconds, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import foldcore as fc

N = 100
WEIGHTS = (0.05, 1.0)
BATCHES = (1, 8, 32)


class Case:
    """One layer and one batch of noisy steps.

    Args:
        weight: λ.
        batch: B.
    """

    def __init__(self, weight: float, batch: int) -> None:
        eye = torch.eye(N, dtype=torch.float64)
        problem = fc.Problem(
            N,
            lambda x, d: ((x - d) ** 2).sum() / 2,
            {"d": fc.Param(N)},
            regularizers=[fc.L1(weight, fc.Param(N - 1, N, init=eye[:-1] - eye[1:], name="D"))],
        )
        self._layer = fc.build(
            {"problem": problem, "solver": "fdpg", "rule": "fdpg", "adjoint": "gmres"}
        )
        generator = torch.Generator().manual_seed(batch)
        levels = torch.randn(batch, N // 10, generator=generator, dtype=torch.float64)
        noise = torch.randn(batch, N, generator=generator, dtype=torch.float64)
        self._signal = levels.repeat_interleave(10, dim=-1)
        self._noisy = self._signal + 0.3 * noise

    def forward(self) -> Tensor:
        with torch.no_grad():
            x: Tensor = self._layer(d=self._noisy)
            return x

    def train(self) -> Tensor:
        """Return the gradient in D of the mean squared error."""
        loss = (self._layer(d=self._noisy) - self._signal).square().mean()
        (gradient,) = torch.autograd.grad(loss, [self._layer.get_parameter("D")])
        return gradient

    def report(self) -> dict[str, float]:
        with torch.no_grad():
            solution = self._layer.solve(d=self._noisy)
        residual = float("nan") if solution.kkt is None else float(solution.kkt.residual.max())
        steps = 0 if solution.iterations is None else max(solution.iterations)
        return {"steps": steps, "kkt": residual}


def serve() -> None:
    """Answer requests on standard input, one JSON line each: [λ, B, what]."""
    torch.set_num_threads(1)
    cases = {(weight, batch): Case(weight, batch) for weight in WEIGHTS for batch in BATCHES}
    print(json.dumps(fc.__file__), flush=True)
    for line in sys.stdin:
        weight, batch, what = json.loads(line)
        case = cases[weight, batch]
        if what == "report":
            answer: object = case.report()
        else:
            call: Callable[[], Tensor] = getattr(case, what)
            started = time.process_time()
            value = call()
            answer = [time.process_time() - started, value.flatten().tolist()]
        print(json.dumps(answer), flush=True)


class Worker:
    """A process that measures one checkout, None for the installed packages."""

    def __init__(self, checkout: Path | None) -> None:
        environment = dict(os.environ)
        if checkout is not None:
            paths = [checkout, checkout / "plugins" / "foldcore-fdpg"]
            environment["PYTHONPATH"] = os.pathsep.join(str(path.resolve()) for path in paths)
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.source = self._read()

    def ask(self, weight: float, batch: int, what: str) -> object:
        if self._process.stdin is None:
            raise RuntimeError("the worker has no standard input")
        self._process.stdin.write(json.dumps([weight, batch, what]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> object:
        if self._process.stdout is None or not (line := self._process.stdout.readline()):
            raise RuntimeError("the worker ended; its error is printed above")
        return json.loads(line)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    workers = [Worker(None)] + ([Worker(options.against)] if options.against else [])
    for worker in workers:
        print(f"measured: {worker.source}")
    print(
        "| λ | batch | pass | ms | other, ms | ratio | quartiles | largest difference | steps | KKT |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for weight in WEIGHTS:
        for batch in BATCHES:
            reports = [worker.ask(weight, batch, "report") for worker in workers]
            for what in ("forward", "train"):
                _print_row(workers, weight, batch, what, options.repeat, reports)


def _print_row(
    workers: list[Worker], weight: float, batch: int, what: str, repeat: int, reports: list[object]
) -> None:
    rounds = [[worker.ask(weight, batch, what) for worker in workers] for _ in range(repeat + 1)]
    times = np.array([[answer[0] for answer in row] for row in rounds[1:]])  # type: ignore[index]
    values = [np.array(answer[1]) for answer in rounds[-1]]  # type: ignore[index]
    median = 1e3 * np.median(times, 0)
    low, ratio, high = np.percentile(times[:, -1] / times[:, 0], (25, 50, 75))
    difference = np.abs(values[-1] - values[0]).max()
    steps = " / ".join(str(report["steps"]) for report in reports)  # type: ignore[index]
    residuals = " / ".join(f"{report['kkt']:.0e}" for report in reports)  # type: ignore[index]
    print(
        f"| {weight} | {batch} | {what} | {median[0]:.1f} | {median[-1]:.1f} | {ratio:.1f} | "
        f"{low:.1f} – {high:.1f} | {difference:.0e} | {steps} | {residuals} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
