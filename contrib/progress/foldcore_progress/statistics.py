"""Statistics: a listener that counts what every fold of this process does."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace

from torch import Tensor

from foldcore import AdjointSolution, Solution, Status
from foldcore.hooks import hookimpl


@dataclass
class FoldStatistics:
    """Sums over all calls of one fold.

    Attributes:
        solves, samples: Forward calls, and samples in them (counts).
        failures: Samples by status, successes left out (counts).
        solver_iterations: Of the solver, where it tells (count).
        solve_seconds, fold_seconds, adjoint_seconds: Wall-clock time, in seconds.
        largest_residual: Largest fixed-point residual divided by the step.
        adjoints: Samples of backward passes (count).
        products: Products with Φᵀ of all adjoint solves (count).
        largest_adjoint_residual: ‖g - (I - Φᵀ)v‖₂, absolute.
        unconverged: Samples whose adjoint did not converge (count).
    """

    solves: int = 0
    samples: int = 0
    failures: Counter[Status] = field(default_factory=Counter)
    solver_iterations: int = 0
    solve_seconds: float = 0.0
    fold_seconds: float = 0.0
    adjoint_seconds: float = 0.0
    largest_residual: float = 0.0
    adjoints: int = 0
    products: int = 0
    largest_adjoint_residual: float = 0.0
    unconverged: int = 0


class Statistics:
    """A listener for :func:`foldcore.hooks.listening`; may hear several threads at once."""

    def __init__(self) -> None:
        self._folds: dict[str, FoldStatistics] = {}
        self._lock = threading.Lock()

    def snapshot(self) -> dict[str, FoldStatistics]:
        """Return a copy of the statistics by the folds' path in the configuration."""
        with self._lock:
            return {
                path: replace(one, failures=Counter(one.failures))
                for path, one in self._folds.items()
            }

    def _of(self, path: str) -> FoldStatistics:
        return self._folds.setdefault(path, FoldStatistics())

    @hookimpl
    def foldcore_solve_finished(self, path: str, solution: Solution, seconds: float) -> None:
        """Count one forward solve."""
        with self._lock:
            fold = self._of(path)
            fold.solves += 1
            fold.samples += len(solution.status)
            fold.failures.update(status for status in solution.status if not status.ok)
            fold.solver_iterations += sum(solution.iterations)
            fold.solve_seconds += seconds

    @hookimpl
    def foldcore_residual_checked(self, path: str, residual: Tensor, seconds: float) -> None:
        """Keep the largest residual."""
        largest = float(residual.detach().amax()) if residual.numel() else 0.0
        with self._lock:
            fold = self._of(path)
            fold.largest_residual = max(fold.largest_residual, largest)
            fold.fold_seconds += seconds

    @hookimpl
    def foldcore_adjoint_finished(
        self, path: str, adjoint: AdjointSolution, seconds: float
    ) -> None:
        """Count one backward pass."""
        largest = float(adjoint.residual.detach().amax()) if adjoint.residual.numel() else 0.0
        products = int(adjoint.iterations.sum())
        unconverged = int((~adjoint.converged).sum())
        with self._lock:
            fold = self._of(path)
            fold.adjoints += len(adjoint.converged)
            fold.products += products
            fold.unconverged += unconverged
            fold.largest_adjoint_residual = max(fold.largest_adjoint_residual, largest)
            fold.adjoint_seconds += seconds
