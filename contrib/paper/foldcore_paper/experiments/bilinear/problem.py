"""The bilinear problem, its layer f-PGDb, and decisions by Gurobi."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

import foldcore as fc

from ...errors import PaperError
from .settings import BilinearSettings, Method


@dataclass(frozen=True)
class Bilinear:
    """maximise cᵀx + xᵀQy + dᵀy  s.t.  Σx = p, Σy = q, 0 <= x, y <= 1.

    Vectors (x, y) and (c, d) are kept side by side, (B, 2n).

    Attributes:
        coupling: Q. Shape (n, n), float64.
        x_total, y_total: p and q.
    """

    coupling: Tensor
    x_total: int
    y_total: int

    @classmethod
    def draw(cls, settings: BilinearSettings, seed: int) -> Bilinear:
        """Return the objective of a seed: entries of Q are normal around 0."""
        generator = torch.Generator().manual_seed(seed)
        coupling = torch.randn(settings.n, settings.n, generator=generator, dtype=torch.float64)
        return cls(settings.coupling_scale * coupling, settings.x_total, settings.y_total)

    @property
    def n(self) -> int:
        """Size of x."""
        return int(self.coupling.shape[0])

    def value(self, decision: Tensor, costs: Tensor) -> Tensor:
        """Return the unsmoothed objective. (B, 2n), (B, 2n) -> (B,)."""
        x, y = decision[:, : self.n], decision[:, self.n :]
        return (costs * decision).sum(-1) + ((x @ self.coupling) * y).sum(-1)

    def program(self, weight: float = 0.0) -> fc.QuadraticProgram:
        """Return minimisation of the negated objective plus weight/2·(‖x‖² + ‖y‖²); q = -(c, d)."""
        n = self.n
        hessian = weight * torch.eye(2 * n, dtype=torch.float64)
        hessian[:n, n:] -= self.coupling
        hessian[n:, :n] -= self.coupling.T
        sums = torch.zeros(2, 2 * n, dtype=torch.float64)
        sums[0, :n] = sums[1, n:] = 1
        totals = torch.tensor([self.x_total, self.y_total], dtype=torch.float64)
        return fc.QuadraticProgram(
            P=hessian, q=fc.Param(2 * n), A=sums, b=totals, lower=0.0, upper=1.0
        )


def folded_layer(problem: Bilinear, settings: BilinearSettings, method: Method) -> fc.Fold:
    """Return f-PGDb: Gurobi forward; one projected gradient step folded, its projection a folded ADMM.

    A solve that hits the time limit has no certified answer: its sample is masked and counted.

    Raises:
        PaperError: If Gurobi cannot be used here.
    """
    projection = {"solver": "osqp", "rule": "admm", "adjoint": "direct"}
    return _build(
        {
            "problem": problem.program(method.weight),
            "solver": _gurobi(settings),
            "rule": {"kind": "pgd", "projection": "inner", "inner": projection},
            "adjoint": {"kind": "gmres", "rtol": 1e-10},
            "on_failure": "mask",
            "on_adjoint_failure": "mask",
            # Gurobi's gap leaves errors of 1e-4 in x, which change no active set; they are recorded.
            "fixed_point": {"on_violation": "ignore"},
            "kkt": {"on_violation": "ignore"},
        }
    )


@dataclass(frozen=True)
class Decisions:
    """Optimal decisions of the unsmoothed problem for costs (B, 2n).

    Attributes:
        primal: (x, y); NaN where Gurobi proved no optimum. Shape (B, 2n).
        solved: Where it did, to the relative gap of the settings. Shape (B,), bool.
        timed_out: Number of solves that hit the time limit.
    """

    primal: Tensor
    solved: Tensor
    timed_out: int


class Decider:
    """Solves the unsmoothed problem to its global optimum by Gurobi.

    Raises:
        PaperError: If Gurobi cannot be used here.
    """

    def __init__(self, problem: Bilinear, settings: BilinearSettings) -> None:
        self._layer = _build(
            {
                "problem": problem.program(),
                "solver": _gurobi(settings),
                "rule": "pgd",
                "adjoint": "gmres",
                "on_failure": "mask",
            }
        )

    def __call__(self, costs: Tensor) -> Decisions:
        with torch.no_grad(), foldcore_warnings():
            solution = self._layer.solve(q=-costs)
        solved = torch.tensor([status.ok for status in solution.status])
        return Decisions(solution.primal, solved, solution.status.count(fc.Status.TIME_LIMIT))


@dataclass
class WarningCount:
    """How many batches gave a warning of an adjoint solve."""

    adjoint: int = 0


@contextmanager
def foldcore_warnings() -> Iterator[WarningCount]:
    """Count warnings of adjoint solves; keep quiet about degenerate and failed samples.

    With whole p and q every vertex has more active constraints than variables, so that its
    multipliers are not unique and each batch warns of it, though x*'s derivative is unique (zero).
    Failed samples are counted from the solution's statuses.
    """
    count = WarningCount()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield count
    for entry in caught:
        if issubclass(entry.category, fc.AdjointWarning):
            count.adjoint += 1
        elif not issubclass(entry.category, fc.DegenerateWarning | fc.SolveWarning):
            warnings.warn_explicit(entry.message, entry.category, entry.filename, entry.lineno)


def _gurobi(settings: BilinearSettings) -> dict[str, object]:
    return {
        "kind": "gurobi",
        "time_limit": settings.time_limit_seconds,
        "mip_gap": settings.mip_gap,
    }


def _build(config: dict[str, object]) -> fc.Fold:
    try:
        return fc.build(config)
    except (fc.PluginUnusableError, fc.PluginNotInstalledError) as error:
        raise PaperError(
            f"bilinear: Gurobi is the forward pass of f-PGDb and cannot be used here: {error} "
            f"pip install 'gurobipy>=13' brings a licence for problems of up to 200 variables."
        ) from error
