"""Step 1 of ADMM: an equality-constrained QP as one linear system, factored once."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import Constants, Factorisation, SmoothProgram, factor_square, to_dense

from .splitting import Splitting


class KKTSystem:
    """K = [[P + Cᵀ diag(weight) C, Aᵀ], [A, 0]], on the graph.

    Factored once for the whole batch where P, A, G and the weights are shared, else once per sample.
    K is dense, sparse data are densified. It is singular exactly where the equalities are dependent, or
    where a direction has no curvature, no equality and no inequality: the solution is not unique.

    Attributes:
        failed: Samples whose K is singular to working precision, (B,) bool; None for none. Their
            solutions are 0 without gradient.

    Args:
        weight: Shape (m,) or (B, m).
        constants: Keeps the factors where P, A and G are constants and the weights stay.
    """

    def __init__(
        self, program: SmoothProgram, splitting: Splitting, weight: Tensor, constants: Constants
    ) -> None:
        data = program.data
        self._n, self._batch = program.n, program.batch
        self._q, self._b = data.q, data.b

        def factored() -> Factorisation:
            dense = {k: None if v is None else to_dense(v) for k, v in
                     (("P", data.P), ("A", data.A), ("G", data.G))}  # fmt: skip
            curved = splitting.gram(weight, dense["G"])
            if dense["P"] is not None:
                curved = curved + dense["P"]
            return factor_square(_bordered(curved, dense["A"]))

        self._factors = constants.once_for("factors", ("P", "A", "G"), weight, factored)
        singular = self._factors.singular
        self.failed = singular.expand(self._batch) if bool(singular.any()) else None

    def solve(self, pull: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and ν of K (x, ν) = (pull - q, b). Shapes (B, n) -> (B, n), (B, p)."""
        right = pull if self._q is None else pull - self._q
        if self._b is not None:
            right = torch.cat([right, self._b.expand(self._batch, -1)], dim=-1)
        solved = self._factors.solve(right)
        return solved[:, : self._n], solved[:, self._n :]

    def keep_failed(self, updated: Tensor, state: Tensor) -> Tensor:
        """Return the update, with failed samples held in place without gradient."""
        if self.failed is None:
            return updated
        return torch.where(self.failed[:, None], state.detach(), updated)


def _bordered(curved: Tensor, rows: Tensor | None) -> Tensor:
    """Return [[curved, rowsᵀ], [rows, 0]], per sample if one of the two is."""
    if rows is None:
        return curved
    batch = next((m.shape[0] for m in (curved, rows) if m.ndim == 3), None)
    if batch is not None:
        curved, rows = (m.expand(batch, *m.shape[-2:]) for m in (curved, rows))
    p = rows.shape[-2]
    corner = rows.new_zeros(*rows.shape[:-2], p, p)
    top = torch.cat([curved, rows.mT], dim=-1)
    return torch.cat([top, torch.cat([rows, corner], dim=-1)], dim=-2)
