"""Largest curvatures and operator norms by power iteration: what constant step sizes are made of."""

from __future__ import annotations

from torch import Tensor

from ..numerics.eigenvalues import operator_norm
from ..program.program import SmoothProgram


def largest_curvature(program: SmoothProgram, point: Tensor) -> Tensor:
    """Estimate ‖∇²f(x)‖₂ of the smooth objective per sample. Shapes (B, n) -> (B,).

    By :func:`operator_norm` on Hessian products, which need no Hessian.
    """
    return operator_norm(lambda vector: program.hessian_product(point, vector), point)
