"""Conjugate gradients on (I - Φᵀ) v = g or on its normal equations."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor

from foldcore import UnsupportedError
from foldcore.adjoints import KrylovAdjoint, KrylovMethod, ScaledSystem
from foldcore.interfaces import AdjointSolution, FixedPointOperator, PluginConfig

from .config import CGConfig
from .cycle import Product, cg_cycle, cgnr_cycle


class CGAdjoint(KrylovAdjoint):
    """Conjugate gradients on the system itself, or on its normal equations.

    Invariant: without ``normal`` the operator must declare Φ = Φᵀ, since on any other matrix the
    recurrence is silently wrong; a declared one whose I - Φ turns out indefinite (an eigenvalue of
    Φ above 1) is reported as not converged. With ``normal`` any I - Φᵀ will do, and the residual
    falls monotonically (CGNR).

    Source: Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, J. Res.
    Nat. Bur. Standards 49 (1952); Saad, Iterative Methods for Sparse Linear Systems (2003),
    algorithms 6.18 and 8.4.
    """

    api_version: ClassVar[int] = 1
    config_class: ClassVar[type[PluginConfig]] = CGConfig
    config: CGConfig
    rank: ClassVar[float] = 0.0

    @property
    def shortest(self) -> int:
        return 2 if self.config.normal else 1

    def solve(self, operator: FixedPointOperator, cotangent: Tensor) -> AdjointSolution:
        """See :meth:`ScaledAdjoint.solve`. ``iterations`` counts products with Φᵀ and with Φ.

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
        return super().solve(operator, cotangent)

    def cycle(self, operator: FixedPointOperator, system: ScaledSystem) -> KrylovMethod:
        transposed = _one_minus(operator.vjp)
        if self.config.normal:
            forward = _one_minus(partial(_forward_product, operator))
            return partial(cgnr_cycle, transposed, forward, tolerance=system.tolerance)
        return partial(cg_cycle, transposed, tolerance=system.tolerance)


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
