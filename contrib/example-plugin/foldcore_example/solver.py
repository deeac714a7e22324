"""A solver: strictly convex QPs by the dual active-set method of the package quadprog.

Source: Goldfarb, Idnani, "A numerically stable dual method for solving strictly convex quadratic
programs", Mathematical Programming 27 (1983), 1-33.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import quadprog

from foldcore import (
    Capabilities,
    PluginConfig,
    ProblemClass,
    ProgramStructure,
    SampleAnswer,
    SampleData,
    SampleModel,
    SampleSolver,
    SampleStart,
    Status,
)

from .solver_config import ExampleSolverConfig


class ExampleSolver(SampleSolver):
    """Solves one sample at a time; batches and workers are the base class's.

    Invariant: an answer depends on its sample's data alone, bit for bit.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = ExampleSolverConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        problem_classes=frozenset({ProblemClass.QP}), duals=True, history_free="bitwise"
    )

    def __init__(self, config: ExampleSolverConfig) -> None:
        self.config: ExampleSolverConfig = config

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        """Say why a problem cannot be solved, in the words of an error message, or None."""
        if structure.auxiliary:
            return "its lowering has variables without curvature, and quadprog needs P definite"
        return super().unsupported_reason(structure)

    def model(self, structure: ProgramStructure, *, single_thread: bool) -> SampleModel:
        """Return the native model. quadprog keeps none: each sample is solved from its data."""
        return _Model()


class _Model(SampleModel):
    def solve(
        self, data: SampleData, changed: frozenset[str], start: SampleStart | None
    ) -> SampleAnswer:
        """Minimise ½xᵀPx - aᵀx s.t. Cᵀx >= d, the first rows of which are equalities."""
        rows = _Rows(data)
        hessian = data.dense("P", data.n)
        try:
            x, _, _, iterations, multipliers, _ = quadprog.solve_qp(
                (hessian + hessian.T) / 2,
                -data.vector("q", data.n, 0.0),
                rows.matrix.T,
                rows.limits,
                rows.equalities,
            )
        except ValueError as error:
            # The library raises ValueError for both, and tells them apart by its words alone.
            refused = "positive definite" in str(error)
            status = Status.NUMERICAL if refused else Status.INFEASIBLE
            return SampleAnswer(status, f"quadprog: {error}")
        return rows.answer(x, multipliers, int(iterations[0]))


class _Rows:
    """All constraints as rows Cᵀx >= d in quadprog's order, and the way back for multipliers."""

    def __init__(self, data: SampleData) -> None:
        n, self.equalities = data.n, data.count("b")
        G, h = data.dense("G", data.count("h")), data.vector("h", data.count("h"), np.inf)
        lower, upper = data.vector("lower", n, -np.inf), data.vector("upper", n, np.inf)
        A, b = data.dense("A", self.equalities), data.vector("b", self.equalities, 0.0)
        matrix = np.concatenate([A, -G, np.eye(n), -np.eye(n)])
        limits = np.concatenate([b, -h, lower, -upper])
        # ±inf means absent; quadprog would compute with it.
        self.present = np.isfinite(limits)
        self.matrix, self.limits = matrix[self.present], limits[self.present]
        self._ends = np.cumsum([b.size, h.size, n])

    def answer(self, x: Any, multipliers: Any, iterations: int) -> SampleAnswer:
        """Return the point with multipliers in foldcore's signs: L = f + νᵀ(Ax - b) + μᵀ(Gx - h) + …"""
        everywhere = np.zeros(self.present.size)
        everywhere[self.present] = multipliers
        equality, inequality, lower, upper = np.split(everywhere, self._ends)
        return SampleAnswer(
            Status.OPTIMAL,
            "optimal",
            iterations,
            x=x,
            equality=-equality,
            inequality=inequality,
            lower=lower,
            upper=upper,
        )
