"""Conjugate gradients on (I - Φᵀ) v = g or on its normal equations."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from foldcore import (
    AdjointSolution,
    AdjointSolver,
    FixedPointOperator,
    PluginConfig,
    ScaledSystem,
    UnsupportedError,
    run_krylov_cycles,
)

from .config import CGConfig
from .cycle import Product, cg_cycle, cgnr_cycle


class CGAdjoint(AdjointSolver):
    """Conjugate gradients, started at v = g so that Φ = 0 takes one product.

    Invariant: without ``normal`` the operator must declare Φ = Φᵀ, since on any other matrix the
    recurrence is silently wrong; a declared one whose I - Φ turns out indefinite (an eigenvalue of
    Φ above 1) is reported as not converged. With ``normal`` any I - Φᵀ will do, and the residual
    falls monotonically (CGNR). The residual that decides is the true one, measured by a product.
    Samples are masked, never mixed.

    The result carries no graph: derivatives of v are the business of who asked for it.

    Source: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, J. Res.
    Nat. Bur. Standards 49 (1952); Saad, Iterative Methods for Sparse Linear Systems (2003),
    algorithms 6.18 and 8.4.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = CGConfig
    rank: ClassVar[float] = 0.0

    def __init__(self, config: CGConfig) -> None:
        self.config: CGConfig = config

    @torch.no_grad()
    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        """See :meth:`AdjointSolver.solve`. ``iterations`` counts products with Φᵀ and with Φ.

        A sample counts as converged if ‖g - (I - Φᵀ) v‖₂ <= max(atol, rtol·‖g‖₂), with rtol
        at least 50 machine epsilons of the dtype.

        Raises:
            UnsupportedError: If Φ is not declared symmetric and ``normal`` is not set, or if it
                is set and the operator has no product with Φ.
        """
        if not (operator.symmetric or operator.zero or self.config.normal):
            raise UnsupportedError(
                f"cg: Φ of {type(operator).__name__} is not declared symmetric, and conjugate "
                f"gradients need a symmetric positive definite I - Φ. Set adjoint.normal: true to "
                f"solve the normal equations, or use adjoint: gmres or bicgstab."
            )
        system = ScaledSystem.of(cotangent, self.config.rtol, self.config.atol)
        best = system.untouched()
        if not operator.zero and bool(system.nonzero.any()):
            tolerance = system.tolerance
            transposed = _one_minus(operator.vjp)
            if self.config.normal:
                forward = _one_minus(partial(_forward_product, operator))
                cycle = partial(cgnr_cycle, transposed, forward, tolerance=tolerance)
            else:
                cycle = partial(cg_cycle, transposed, tolerance=tolerance)
            best = run_krylov_cycles(
                operator,
                system,
                system.started(operator),
                cycle,
                max_iter=self.config.max_iter,
                shortest=2 if self.config.normal else 1,
            )
        return system.report(best.adjoint, best.norm, best.products)


def _one_minus(product: Product) -> Product:
    return lambda vector: vector - product(vector)


def _forward_product(operator: FixedPointOperator, tangent: Tensor) -> Tensor:
    try:
        return operator.jvp(tangent)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"cg: normal: true needs products with Φ beside those with Φᵀ. {error} For instance "
            f"gmres or bicgstab."
        ) from error
