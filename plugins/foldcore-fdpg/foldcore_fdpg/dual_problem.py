"""The dual of min ½xᵀPx + qᵀx + g(Dx): the map x(w), its curvature, one proximal gradient step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from foldcore import (
    Constants,
    Regularizer,
    StackedTerms,
    factor_definite,
    largest_eigenvalue,
    operator_norm,
    solve_factored,
)

DENSE_ROWS = 1500
"""Up to this number of rows of D a dense D P⁻¹ Dᵀ is formed, and factored to lift a solution."""

_BOTH = ("P", "regularizers")
"""What D P⁻¹ Dᵀ depends on."""

_SMALL = 128
"""Up to this number of rows a product of matrices costs less than the calls that it saves."""


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
        constants: Keeps what P and D give where they are constants; None computes it anew.
    """

    def __init__(
        self,
        P: Tensor,
        q: Tensor | None,
        terms: Sequence[Regularizer],
        batch: int,
        constants: Constants | None = None,
    ) -> None:
        n = P.shape[-1]
        self._constants = constants or Constants()
        self.terms = StackedTerms(terms, n)
        self._terms = tuple(terms)
        self._operators = [term.split()[0] for term in terms]
        self._q = P.new_zeros(n) if q is None else q
        self._like = P.new_zeros(batch, n)
        self._diagonal: Tensor | None = None
        self._factor, self.bad = self._constants.once("factor", ("P",), lambda: _factored(P))
        if not P.requires_grad and bool((P.detach() == _diagonal_part(P)).all()):
            # Denoising has P = I: dividing by it costs no triangular solves.
            self._diagonal = torch.diagonal(self._factor, dim1=-2, dim2=-1) ** 2

    def primal(self, w: Tensor) -> Tensor:
        """Return x = P⁻¹(Dᵀw - q), on the graph of w, P, q and D. Shapes (B, k) -> (B, n)."""
        return self._inverse(self.terms.pull(w) - self._q)

    @cached_property
    def curvature(self) -> Tensor:
        """L = ‖D P⁻¹ Dᵀ‖₂ per sample, estimated from below; a constant for autograd. Shape (B,).

        Estimated once where P and D are shared by the batch.
        """
        batch = self._like.shape[0]
        with torch.no_grad():
            return self._constants.once("curvature", _BOTH, self._norm).expand(batch)

    def _norm(self) -> Tensor:
        """Return ‖D P⁻¹ Dᵀ‖₂. Shape (), (1,) or (B,)."""
        if not self.dense:
            rows = 1 if self._shared else self._like.shape[0]
            return operator_norm(self._product, self.zeros()[:rows])
        gram = self.gram
        if gram.ndim == 2 and gram.shape[-1] <= _SMALL:
            return _norm_of_small(gram)
        return largest_eigenvalue(gram)

    def descend(self, w: Tensor, step_size: Tensor) -> Tensor:
        """Return one dual proximal gradient step from w. Shapes (B, k), (B,) -> (B, k).

        (28b) for any g: w - αDu + α·prox_{g/α}(Du - w/α) = -prox_{αg*}(αDu - w), by Moreau.
        """
        return -self.terms.dual_prox(self.unclamped(w, step_size), step_size)

    def unclamped(self, w: Tensor, step_size: Tensor) -> Tensor:
        """Return αDu - w, whose proximal operator ``descend`` takes. Shapes (B, k), (B,) -> (B, k)."""
        return step_size.unsqueeze(-1) * self.terms.image(self.primal(w)) - w

    def zeros(self) -> Tensor:
        """Return w = 0. Shape (B, k)."""
        return self._like.new_zeros(self._like.shape[0], sum(self.terms.sizes))

    def descent(self, step_size: Tensor) -> Callable[[Tensor], Tensor]:
        """Return w -> ``descend(w, step_size)`` without gradient, for many steps.

        Invariant: equal to ``descend`` up to rounding.
        """
        column, image, box = step_size.unsqueeze(-1), self.image_map(), self.box
        if box is None:
            return lambda w: -self.terms.dual_prox(column * image(w) - w, step_size)
        low, high = -box, box
        return lambda w: torch.addcmul(w, column, image(w), value=-1).clamp_(low, high)

    def image_map(self) -> Callable[[Tensor], Tensor]:
        """Return w -> D x(w) without gradient, for many products. Shapes (B, k) -> (B, k)."""
        with torch.no_grad():
            if not self.gram_pays:
                return lambda w: self.terms.image(self.primal(w))
            gram = self.gram
            offset = self.terms.image(self._inverse(self._like + self._q))
        if gram.ndim == 2:
            return lambda w: torch.addmm(offset, w, gram, beta=-1)
        rows = offset.unsqueeze(1)
        return lambda w: torch.baddbmm(rows, w.unsqueeze(1), gram, beta=-1).squeeze(1)

    @property
    def dense(self) -> bool:
        """Whether D has few enough rows for a dense D P⁻¹ Dᵀ."""
        return sum(self.terms.sizes) <= DENSE_ROWS

    @cached_property
    def matrix(self) -> Tensor:
        """D, detached. Shape (k, n), or (B, k, n) where a part of it varies in the batch."""
        n = self._like.shape[-1]
        eye = torch.eye(n, dtype=self._like.dtype, device=self._like.device)
        parts = [eye if d is None else d.detach() for d in self._operators]
        lead = max((d.shape[:-2] for d in parts), key=len)
        return torch.cat([d.expand(*lead, *d.shape[-2:]) for d in parts], dim=-2)

    @cached_property
    def gram(self) -> Tensor:
        """D P⁻¹ Dᵀ, detached. Shape (k, k) where P and D are shared by the batch, else (B, k, k)."""
        with torch.no_grad():
            return self._constants.once("gram", _BOTH, self._formed_gram)

    def _formed_gram(self) -> Tensor:
        if self._diagonal is not None:
            return (self.matrix / self._diagonal.unsqueeze(-2)) @ self.matrix.mT
        return self.matrix @ torch.cholesky_solve(self.matrix.mT, self._factor)

    @cached_property
    def box(self) -> Tensor | None:
        """Bounds |w| <= λ, detached, (B, k); None if g is no weighted sum of absolute values."""
        batch, n = self._like.shape
        blocks = []
        for term, size in zip(self._terms, self.terms.sizes, strict=True):
            if not term.has_absolute_terms:
                return None
            _, weights = term.absolute_terms(n)
            blocks.append(weights.detach().expand(batch, size))
        return torch.cat(blocks, dim=-1)

    @property
    def _shared(self) -> bool:
        matrices = (self._factor, *(d for d in self._operators if d is not None))
        return all(matrix.ndim == 2 for matrix in matrices)

    @property
    def gram_pays(self) -> bool:
        """Whether a product with D P⁻¹ Dᵀ costs less than one after another with its factors."""
        n, k = self._like.shape[-1], sum(self.terms.sizes)
        rows = sum(int(d.shape[-2]) for d in self._operators if d is not None)
        apart = 2 * n * rows + (n * n if self._diagonal is None else 0)
        return self.dense and k * k <= apart + _SMALL**2

    def _product(self, w: Tensor) -> Tensor:
        return self.terms.image(self._inverse(self.terms.pull(w)))

    def _inverse(self, right: Tensor) -> Tensor:
        if self._diagonal is not None:
            return right / self._diagonal
        return solve_factored(self._factor, right)


def _diagonal_part(matrix: Tensor) -> Tensor:
    return torch.diag_embed(torch.diagonal(matrix.detach(), dim1=-2, dim2=-1))


def _factored(P: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor and the samples without one, which get that of the identity."""
    factor, definite = factor_definite(P)
    return factor, ~definite.reshape(-1)


def _norm_of_small(matrix: Tensor) -> Tensor:
    """Estimate ‖M‖₂ of a symmetric (k, k) matrix by power iteration on M⁸: an eighth of the products."""
    size = matrix.abs().sum(-1).amax()
    size = torch.where(size > 0, size, torch.ones_like(size))
    return size * largest_eigenvalue(torch.linalg.matrix_power(matrix / size, 8)) ** 0.125
