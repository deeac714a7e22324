"""MetricsLogger: a listener that writes scalars, one step per call of a fold."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from foldcore import AdjointSolution, Solution
from foldcore.hooks import hookimpl, listening


class MetricsLogger:
    """Writes ``foldcore/<path>/<metric>``; the step counts the calls of the fold of that path.

    Args:
        writer: Of ``torch.utils.tensorboard``; the caller closes it.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer
        self._forward: Counter[str] = Counter()
        self._backward: Counter[str] = Counter()
        self._lock = threading.Lock()

    @hookimpl
    def foldcore_solve_finished(self, path: str, solution: Solution, seconds: float) -> None:
        """Write time, failures and iterations of a forward solve."""
        with self._lock:
            step = self._forward[path]
            self._forward[path] += 1
        self._write(path, "solve_seconds", seconds, step)
        self._write(path, "failed_samples", float(len(solution.failed)), step)
        if solution.iterations:
            mean = sum(solution.iterations) / len(solution.iterations)
            self._write(path, "mean_solver_iterations", mean, step)

    @hookimpl
    def foldcore_residual_checked(self, path: str, residual: Tensor, seconds: float) -> None:
        """Write the largest fixed-point residual and the time of folding."""
        with self._lock:
            step = max(self._forward[path] - 1, 0)
        self._write(path, "largest_fixed_point_residual", float(residual.detach().amax()), step)
        self._write(path, "fold_seconds", seconds, step)

    @hookimpl
    def foldcore_adjoint_finished(
        self, path: str, adjoint: AdjointSolution, seconds: float
    ) -> None:
        """Write time, products and convergence of an adjoint solve."""
        with self._lock:
            step = self._backward[path]
            self._backward[path] += 1
        products = adjoint.iterations.double().mean()
        self._write(path, "adjoint_seconds", seconds, step)
        self._write(path, "mean_adjoint_products", float(products), step)
        self._write(path, "largest_adjoint_residual", float(adjoint.residual.amax()), step)
        self._write(path, "unconverged_adjoints", float((~adjoint.converged).sum()), step)

    def _write(self, path: str, metric: str, value: float, step: int) -> None:
        self._writer.add_scalar(f"foldcore/{path or 'layer'}/{metric}", value, step)


@contextmanager
def logging_to(folder: str | PathLike[str]) -> Iterator[MetricsLogger]:
    """Write the metrics of every fold to a TensorBoard folder while the block runs."""
    with SummaryWriter(str(folder)) as writer:
        logger = MetricsLogger(writer)
        with listening(logger):
            yield logger
