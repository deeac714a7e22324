"""The dual of min ½xᵀPx + qᵀx + g(Dx): the map x(w), its curvature, one proximal gradient step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foldcore import Regularizer, StackedTerms, operator_norm


class DualProblem:
    """min_w ½‖Dᵀw - q‖²_{P⁻¹} + g*(-w), whose solution gives x = P⁻¹(Dᵀw - q).

    The sign of w is that of equation (28a): w is minus a subgradient of g at Dx. P is factored once
    here, and once for the whole batch where it is shared. Everything stays on the graph.

    Attributes:
        terms: g and D.
        bad: Samples whose P is not positive definite, (B,) or (1,) bool; they get P = I.

    Args:
        P: Symmetric. Shape (n, n) or (B, n, n).
        q: (n,), (B, n), or None for 0.
        terms: Bound terms, each g_i(D_i x).
        batch: B.
    """

    def __init__(
        self, P: Tensor, q: Tensor | None, terms: Sequence[Regularizer], batch: int
    ) -> None:
        n = P.shape[-1]
        self.terms = StackedTerms(terms, n)
        self._q = P.new_zeros(n) if q is None else q
        self._like = P.new_zeros(batch, n)
        self._diagonal: Tensor | None = None
        self._factor, self.bad = _factored(P)
        if not P.requires_grad and bool((P.detach() == _diagonal_part(P)).all()):
            # Denoising has P = I: dividing by it costs no triangular solves.
            self._diagonal = torch.diagonal(self._factor, dim1=-2, dim2=-1) ** 2

    def primal(self, w: Tensor) -> Tensor:
        """Return x = P⁻¹(Dᵀw - q), on the graph of w, P, q and D. Shapes (B, k) -> (B, n)."""
        return self._inverse(self.terms.pull(w) - self._q)

    def curvature(self) -> Tensor:
        """Estimate L = ‖D P⁻¹ Dᵀ‖₂ per sample, a constant for autograd. Shape (B,)."""
        with torch.no_grad():
            return operator_norm(self._product, self.zeros())

    def descend(self, w: Tensor, step_size: Tensor) -> Tensor:
        """Return one dual proximal gradient step from w. Shapes (B, k), (B,) -> (B, k).

        (28b) for any g: w - αDu + α·prox_{g/α}(Du - w/α) = -prox_{αg*}(αDu - w), by Moreau.
        """
        image = self.terms.image(self.primal(w))
        return -self.terms.dual_prox(step_size.unsqueeze(-1) * image - w, step_size)

    def zeros(self) -> Tensor:
        """Return w = 0. Shape (B, k)."""
        return self._like.new_zeros(self._like.shape[0], sum(self.terms.sizes))

    def gram(self) -> Tensor:
        """Return D P⁻¹ Dᵀ of each sample, detached. Shape (B, k, k), by k products."""
        with torch.no_grad():
            zeros = self.zeros()
            columns = []
            for i in range(zeros.shape[-1]):
                unit = zeros.clone()
                unit[:, i] = 1.0
                columns.append(self._product(unit))
            return torch.stack(columns, dim=-1)

    def _product(self, w: Tensor) -> Tensor:
        return self.terms.image(self._inverse(self.terms.pull(w)))

    def _inverse(self, right: Tensor) -> Tensor:
        if self._diagonal is not None:
            return right / self._diagonal
        if self._factor.ndim == 2:
            return torch.cholesky_solve(right.mT, self._factor).mT
        return torch.cholesky_solve(right.unsqueeze(-1), self._factor).squeeze(-1)


def _diagonal_part(matrix: Tensor) -> Tensor:
    return torch.diag_embed(torch.diagonal(matrix.detach(), dim1=-2, dim2=-1))


def _factored(P: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor and the samples without one, which get that of the identity."""
    factor, info = torch.linalg.cholesky_ex(P)
    with torch.no_grad():
        pivots = torch.diagonal(factor, dim1=-2, dim2=-1)
        size = torch.diagonal(P, dim1=-2, dim2=-1).abs().amax(-1)
        limit = 100 * P.shape[-1] * torch.finfo(P.dtype).eps * size
        bad = (info != 0) | ~(pivots.amin(-1) ** 2 > limit)
    if bool(bad.any()):
        identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
        factor = torch.linalg.cholesky(torch.where(bad[..., None, None], identity, P))
    return factor, bad.reshape(-1)


def matrix_of(terms: StackedTerms, like: Tensor) -> Tensor:
    """Return D of each sample, detached. Shape (B, k, n); ``like`` is any (B, n)."""
    with torch.no_grad():
        n = like.shape[-1]
        identity = torch.eye(n, dtype=like.dtype, device=like.device)
        columns = [terms.image(identity[i].expand(like.shape[0], n)) for i in range(n)]
        return torch.stack(columns, dim=-1)
