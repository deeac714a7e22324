"""Fast dual proximal gradient as a forward solver: equations (28a) to (28d), batched."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import (
    L1,
    Capabilities,
    Duals,
    IterationMap,
    ProblemClass,
    ProgramStructure,
    Regularizer,
    Session,
    SmoothProgram,
    Solution,
    Solver,
    Status,
    UnsupportedError,
    accelerate,
    to_dense,
)

from .config import FDPGSolverConfig
from .dual_problem import DualProblem
from .rule import unsuitable


def fdpg_solve(program: SmoothProgram, max_iter: int = 20000, tol: float = 1e-10) -> Solution:
    """Minimise ½xᵀPx + qᵀx + g(Dx) by dual proximal gradient with momentum and restarts.

    Serves as a bare callable too: ``{"solver": fdpg_solve}``. Each sample stops by itself.

    Source: Kotary, Dinh, Fioretto, equations (28a-d), with the step 1/‖D P⁻¹ Dᵀ‖₂ in place of ¼;
    restarts: O'Donoghue and Candès (2015), without which the momentum's oscillations set the rate.

    Args:
        program: With terms g(Dx) of known prox, or lowered: rows Dx - t <= 0, -Dx - t <= 0.
        max_iter: Largest number of steps.
        tol: Largest ‖U(w) - w‖₂/α relative to 1 + ‖w‖₂.

    Returns:
        In the program's own variables, (x, t) where it is lowered, then with duals of its rows.
        Status ITERATION_LIMIT where the residual stays above ``tol``.

    Raises:
        UnsupportedError: If the program is neither.
    """
    return _solve(program, rtol=tol, atol=tol, max_iter=max_iter)


class FDPGSolver(Solver):
    """The solver of quadratics with nonsmooth terms g(Dx): total variation, group norms, sets."""

    api_version = 1
    config_class = FDPGSolverConfig
    capabilities = Capabilities(
        problem_classes=frozenset({ProblemClass.QP, ProblemClass.NLP}),
        duals=True,
        native_batch=True,
        gpu=True,
    )

    def __init__(self, config: FDPGSolverConfig) -> None:
        self.config: FDPGSolverConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 15.0 if structure.auxiliary or structure.has_image_prox else 0.0

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.auxiliary:
            return _lowered_reason(structure)
        if not structure.has_regularizers:
            return "the objective has no nonsmooth term g(Dx), whose dual this solver works on"
        return unsuitable(structure)

    def open(self, structure: ProgramStructure) -> Session:
        return _FDPGSession(self.config)


class _FDPGSession(Session):
    def __init__(self, config: FDPGSolverConfig) -> None:
        self.config: FDPGSolverConfig = config

    def solve(
        self,
        program: SmoothProgram,
        *,
        changed: frozenset[str],
        warm_start: Solution | None = None,
        iteration: IterationMap | None = None,
    ) -> Solution:
        config = self.config
        return _solve(program, rtol=config.rtol, atol=config.atol, max_iter=config.max_iter)


def _lowered_reason(structure: ProgramStructure) -> str | None:
    template = structure.template
    bounded = template.lower is not None or template.upper is not None
    rows = structure.n_inequality - 2 * structure.auxiliary
    if structure.n_equality or bounded or rows:
        return (
            "it has constraints beside its nonsmooth terms; give sets as "
            "regularizers=[Indicator(set)], or use a QP solver"
        )
    if structure.smooth_objective or template.P is None:
        return "its smooth objective is not a quadratic with a positive definite P"
    return None


def _solve(program: SmoothProgram, *, rtol: float, atol: float, max_iter: int) -> Solution:
    with torch.no_grad():
        auxiliary = program.n - program.structure.n
        if auxiliary:
            dual, weights = _raised(program, auxiliary)
        elif program.regularizers and program.data.P is not None:
            P = to_dense(program.data.P)
            dual = DualProblem(P, program.data.q, program.regularizers, program.batch)
        else:
            raise UnsupportedError(
                "fdpg: the program has no nonsmooth term g(Dx) with a quadratic beside it; use it "
                "for Problem(..., regularizers=[...]) with a strongly convex quadratic objective."
            )
        # The estimate of L is from below; momentum needs a step of at most 1/L.
        curvature = 1.05 * dual.curvature
        step_size = torch.where(curvature > 0, 1 / curvature, torch.ones_like(curvature))
        found = accelerate(
            dual.descent(step_size),
            dual.zeros(),
            step_size=step_size,
            rtol=rtol,
            atol=atol,
            max_iter=max_iter,
        )
        x = dual.primal(found.state)
        bad = dual.bad.expand(program.batch)
        status = tuple(
            Status.NONCONVEX
            if indefinite
            else Status.NUMERICAL
            if not finite
            else Status.OPTIMAL
            if met
            else Status.ITERATION_LIMIT
            for indefinite, finite, met in zip(
                bad.tolist(),
                torch.isfinite(x).all(-1).tolist(),
                found.converged.tolist(),
                strict=True,
            )
        )
        duals = None
        if auxiliary:
            duals = _row_duals(program, found.state, weights)
            x = torch.cat([x, dual.terms.image(x).abs()], dim=-1)
        return Solution(
            primal=x, status=status, duals=duals, iterations=tuple(found.iterations.tolist())
        )


def _raised(program: SmoothProgram, k: int) -> tuple[DualProblem, Tensor]:
    """Read P, q, D and the weights back from a lowered program."""
    data, n = program.data, program.n - k
    if data.P is None or data.G is None or data.q is None or data.G.shape[-2] != 2 * k:
        raise UnsupportedError(
            "fdpg: the lowered program has constraints beside the rows of its nonsmooth terms, or "
            "no quadratic objective; use a QP solver."
        )
    weights = data.q[..., n:]
    operator = to_dense(data.G)[..., :k, :n]
    terms: list[Regularizer] = [L1(weights, operator)]
    P = to_dense(data.P)[..., :n, :n]
    return DualProblem(P, data.q[..., :n], terms, program.batch), weights


def _row_duals(program: SmoothProgram, w: Tensor, weights: Tensor) -> Duals:
    """Return multipliers of Dx - t <= 0 and -Dx - t <= 0: their difference is -w, their sum λ."""
    none = w.new_zeros(w.shape[0], 0)
    zeros = w.new_zeros(w.shape[0], program.n)
    rows = torch.cat([(weights - w) / 2, (weights + w) / 2], dim=-1).clamp(min=0)
    return Duals(equality=none, inequality=rows, lower=zeros, upper=zeros)
