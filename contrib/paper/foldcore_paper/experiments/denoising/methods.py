"""The learned denoiser x*(D) = argmin ½‖x - d‖² + λ‖Dx‖₁ by three ways of solving and differentiating it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from qpth.qp import QPFunction
from torch import Tensor, nn

import foldcore as fc

from ...errors import PaperError
from .signals import LENGTH

ROWS = LENGTH - 1
"""Rows of D."""


def differencing() -> Tensor:
    """Return the differencing operator, with which x* is total variation denoising. Shape (99, 100)."""
    eye = torch.eye(LENGTH, dtype=torch.float64)
    return eye[:-1] - eye[1:]


def denoising_problem(weight: float, operator: Tensor | None = None) -> fc.Problem:
    """Return min_x ½‖x - d‖² + λ‖Dx‖₁ with the parameter d and a learnable D.

    Args:
        weight: λ.
        operator: Initial D, by default the differencing operator.
    """
    D = fc.Param(ROWS, LENGTH, init=differencing() if operator is None else operator, name="D")
    return fc.Problem(
        LENGTH,
        lambda x, d: ((x - d) ** 2).sum() / 2,
        {"d": fc.Param(LENGTH)},
        regularizers=[fc.L1(weight, D)],
    )


class Denoiser(nn.Module, ABC):
    """A denoiser with one learnable matrix."""

    @property
    @abstractmethod
    def operator(self) -> nn.Parameter:
        """D. Shape (99, 100)."""

    @abstractmethod
    def forward(self, noisy: Tensor) -> Tensor:
        """Return x*, (B, 100), of noisy signals (B, 100)."""


class FoldedDenoiser(Denoiser):
    """f-FDPG: solved by accelerated dual proximal gradient, folded at its plain step.

    Both use the step 1/‖D‖² instead of the paper's ¼, for a learned D exceeds ‖D‖² = 4.

    Args:
        weight: λ.
        rtol: Tolerance of the forward pass, absolute and relative.
        operator: Initial D, by default the differencing operator.
    """

    def __init__(self, weight: float, rtol: float = 1e-10, operator: Tensor | None = None) -> None:
        super().__init__()
        self.layer = fc.build(
            {
                "problem": denoising_problem(weight, operator),
                "solver": {"kind": "fdpg", "rtol": rtol, "atol": rtol},
                "rule": "fdpg",
                "adjoint": "gmres",
            }
        )

    @property
    def operator(self) -> nn.Parameter:
        return self.layer.get_parameter("D")

    def forward(self, noisy: Tensor) -> Tensor:
        solution: Tensor = self.layer(d=noisy)
        return solution


class QuadraticDenoiser(Denoiser):
    """Equation (33) as a quadratic program in (x, t), differentiated by qpth.

    qpth needs a positive definite P, and t has no quadratic term in (33): like Amos and Kolter's
    code, this adds ½ridge‖t‖², which moves λ by ridge·t.

    Args:
        weight: λ.
        ridge: Weight of the quadratic term in t.
        operator: Initial D, by default the differencing operator.
    """

    def __init__(self, weight: float, ridge: float, operator: Tensor | None = None) -> None:
        super().__init__()
        self.D = nn.Parameter(differencing() if operator is None else operator.clone())
        diagonal = torch.ones(LENGTH + ROWS, dtype=torch.float64)
        diagonal[LENGTH:] = ridge
        self.P: Tensor
        self.weights: Tensor
        self.register_buffer("P", torch.diag(diagonal))
        self.register_buffer("weights", torch.full((ROWS,), weight, dtype=torch.float64))

    @property
    def operator(self) -> nn.Parameter:
        return self.D

    def rows(self) -> Tensor:
        """Return G = [[D, -I], [-D, -I]]. Shape (198, 199)."""
        minus = -torch.eye(ROWS, dtype=torch.float64)
        return torch.cat([torch.cat([s * self.D, minus], -1) for s in (1, -1)])

    def linear(self, noisy: Tensor) -> Tensor:
        """Return q = (-d, λ1). Shape (B, 199)."""
        return torch.cat([-noisy, self.weights.expand(noisy.shape[0], ROWS)], -1)


class QpthDenoiser(QuadraticDenoiser):
    """Equation (33) by qpth as its authors call it.

    Args:
        weight: λ.
        ridge: Weight of the quadratic term in t.
        eps: Sum of residuals and gap at which qpth stops, in units of the data.
        operator: Initial D, by default the differencing operator.
    """

    def __init__(
        self, weight: float, ridge: float, eps: float, operator: Tensor | None = None
    ) -> None:
        super().__init__(weight, ridge, operator)
        self.eps = eps

    def forward(self, noisy: Tensor) -> Tensor:
        batch, (m, n) = noisy.shape[0], (2 * ROWS, LENGTH + ROWS)
        none = noisy.new_zeros(0)
        # qpth divides the gradient of what it expands itself by the batch size: expand it here.
        G = self.rows().expand(batch, m, n)
        P = self.P.expand(batch, n, n)
        solve = QPFunction(eps=self.eps, verbose=-1, check_Q_spd=False)
        solution: Tensor = solve(P, self.linear(noisy), G, noisy.new_zeros(batch, m), none, none)
        return solution[:, :LENGTH]


class FoldcoreQpthDenoiser(QuadraticDenoiser):
    """Equation (33) by foldcore's qpth solver, which certifies solutions and derivatives."""

    def __init__(self, weight: float, ridge: float, operator: Tensor | None = None) -> None:
        super().__init__(weight, ridge, operator)
        n, m = LENGTH + ROWS, 2 * ROWS
        problem = fc.QuadraticProgram(
            P=self.P, q=fc.Param(n), G=fc.Param(m, n), h=torch.zeros(m, dtype=torch.float64)
        )
        self.layer = fc.build({"problem": problem, "solver": "qpth"})

    def forward(self, noisy: Tensor) -> Tensor:
        solution: Tensor = self.layer(q=self.linear(noisy), G=self.rows())
        return solution[:, :LENGTH]


def certify(weight: float, operator: Tensor, noisy: Tensor, x: Tensor) -> fc.KKTReport:
    """Return the KKT residuals of given points x, (B, 100), from the problem's data alone.

    The multipliers are recovered from x, whatever method it comes from.
    """
    layer = fc.build(
        {
            "problem": denoising_problem(weight, operator),
            "solver": lambda program: x,
            "rule": "fdpg",
            "adjoint": "gmres",
            "kkt": {"on_violation": "ignore", "reject_above": 1e300},
        }
    )
    with torch.no_grad():
        report = layer.solve(d=noisy).kkt
    if report is None:
        raise PaperError("denoising: the layer returned no certificate.")
    return report
