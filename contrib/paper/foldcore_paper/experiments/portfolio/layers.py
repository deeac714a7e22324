"""Problem (20) as a differentiable layer: folded with foldcore, and by cvxpylayers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import cvxpy as cp
import diffcp
import torch
from cvxpylayers.torch import CvxpyLayer
from torch import Tensor

import foldcore as fc

from .data import Market
from .observe import observed


@dataclass(frozen=True)
class Portfolios:
    """What a layer returns for a batch of B price vectors.

    Attributes:
        weights: x*(c), on the graph; 0 for samples without a solution. Shape (B, n).
        solved: Samples that have a solution. Shape (B,), bool.
        raised: Whether the layer raised, so that no sample of the batch has a solution.
        degenerate: Samples without strict complementarity (count); 0 where the layer does not tell.
        doubted: Samples that the layer returns and calls inaccurate itself (count).
    """

    weights: Tensor
    solved: Tensor
    raised: bool = False
    degenerate: int = 0
    doubted: int = 0


class PortfolioLayer(ABC):
    """x*(c) of (20) with a gradient."""

    @abstractmethod
    def __call__(self, prices: Tensor) -> Portfolios:
        """Solve for a batch of prices. Shape (B, n), float64."""


@dataclass(frozen=True)
class FoldedOptions:
    """A foldcore configuration of (20).

    Attributes:
        solver: The black box, as in a configuration.
        rule: The update rule, likewise.
        adjoint: The adjoint solver, likewise.
        polish: Steps of the rule run from the black box's answer (count).
    """

    solver: Mapping[str, Any]
    rule: Mapping[str, Any]
    adjoint: str = "lfpi"
    polish: int = 2


class FoldedPortfolio(PortfolioLayer):
    """The folded layer, in the natural units of the data: V and γ are passed as they are.

    Failed samples, and samples whose adjoint did not converge, are masked: they get no gradient and
    leave the others alone. Degenerate ones get the one-sided gradient of the rule, and are counted.
    """

    def __init__(self, market: Market, options: FoldedOptions) -> None:
        n = len(market.covariance)
        one = torch.ones(1, dtype=torch.float64)
        problem = fc.QuadraticProgram(
            q=fc.Param(n, name="cost"),
            A=torch.ones(1, n, dtype=torch.float64),
            b=one,
            lower=0.0,
            quadratic_P=2 * market.covariance[None],
            quadratic_q=torch.zeros(1, n, dtype=torch.float64),
            quadratic_r=market.gamma * one,
        )
        self.fold = fc.build(
            {
                "problem": problem,
                "solver": options.solver,
                "rule": options.rule,
                "adjoint": options.adjoint,
                "fixed_point": {"polish": options.polish},
                "degeneracy": {"policy": "one_sided"},
                "on_failure": "mask",
                "on_adjoint_failure": "mask",
            }
        )

    def __call__(self, prices: Tensor) -> Portfolios:
        solution = self.fold.solve(cost=-prices)
        solved = torch.tensor([status.ok for status in solution.status])
        weights = torch.where(solved[:, None], solution.primal, 0.0)
        if solution.kkt is None:  # no sample of the batch was solved
            return Portfolios(weights=weights, solved=solved)
        # From the certificates, which cover each sample: a warning speaks for the batch, in words.
        config = self.fold.config
        doubted = solution.kkt.residual > config.kkt.atol
        degenerate = solution.kkt.margin <= config.degeneracy.margin
        return Portfolios(
            weights=weights,
            solved=solved,
            degenerate=int(degenerate.sum()),
            doubted=int(doubted.sum()),
        )


@dataclass(frozen=True)
class CvxpyOptions:
    """How (20) is written for cvxpylayers, and what its solver is told.

    Attributes:
        risk: "quad_form" writes xᵀVx <= γ as (20) prints it, "sum_squares" writes ‖Fᵀx‖² <= γ with V = FFᵀ.
        arguments: ``solver_args`` of the layer; without any, SCS runs at its defaults.
    """

    risk: Literal["quad_form", "sum_squares"] = "quad_form"
    arguments: Mapping[str, Any] = field(default_factory=dict)


class CvxpyPortfolio(PortfolioLayer):
    """cvxpylayers on the same numbers. One failed sample makes it raise for the whole batch."""

    def __init__(self, market: Market, options: CvxpyOptions) -> None:
        covariance = market.covariance.numpy()
        x, price = cp.Variable(len(covariance)), cp.Parameter(len(covariance))
        if options.risk == "quad_form":
            risk = cp.quad_form(x, cp.psd_wrap(covariance))
        else:
            risk = cp.sum_squares(torch.linalg.cholesky(market.covariance).numpy().T @ x)
        constraints = [risk <= market.gamma, cp.sum(x) == 1, x >= 0]
        problem = cp.Problem(cp.Maximize(price @ x), constraints)
        self._layer = CvxpyLayer(problem, parameters=[price], variables=[x])
        # One thread, as all methods here have.
        self._arguments = {"n_jobs_forward": 1, **options.arguments}

    def __call__(self, prices: Tensor) -> Portfolios:
        arguments = dict(self._arguments)
        if torch.is_grad_enabled() and prices.requires_grad:
            arguments["n_jobs_backward"] = 1  # without a gradient it would be passed on to SCS
        with observed() as seen:
            try:
                (weights,) = self._layer(prices, solver_args=arguments)
            except diffcp.SolverError:
                # Counted by the caller: the batch is lost, whichever of its samples it was.
                nothing = torch.zeros(len(prices), dtype=torch.bool)
                return Portfolios(weights=torch.zeros_like(prices), solved=nothing, raised=True)
        solved = torch.isfinite(weights).all(-1)
        weights = torch.where(solved[:, None], weights, 0.0)
        return Portfolios(weights=weights, solved=solved, doubted=seen.inaccurate)
