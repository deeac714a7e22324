"""Step 1 of ADMM: an equality-constrained QP as one linear system, factored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foldcore import Constants, SmoothProgram, to_dense
from foldcore.kkt import Ambiguity, KKTSystem, ambiguities

from .splitting import Splitting

_CONTRADICTED = 1e-8
"""Part of b outside of the range of A, relative to b, above which the equalities contradict each other."""


class ConstantBlock:
    """K = [[P + Cᵀ diag(weight) C, Aᵀ], [A, 0]], on the graph.

    Factored once for the whole batch where P, A, G and the weights are shared, else once per sample.
    K is dense, sparse data are densified. Where equalities follow from each other it is singular, and
    x all the same unique; where a direction has no curvature, no equality and no inequality, x is not.

    Attributes:
        failed: Samples whose x is not unique, or whose equalities contradict each other, (B,) bool;
            None for none. Their solutions are 0 without gradient.

    Args:
        weight: Shape (m,) or (B, m).
        constants: Keeps the factors where P, A and G are constants and the weights stay.
    """

    def __init__(
        self, program: SmoothProgram, splitting: Splitting, weight: Tensor, constants: Constants
    ) -> None:
        data, n, batch = program.data, program.n, program.batch
        self._n, self._batch = n, batch
        self._q, self._b = data.q, data.b

        def made() -> KKTSystem:
            dense = {k: None if v is None else to_dense(v) for k, v in
                     (("P", data.P), ("A", data.A), ("G", data.G))}  # fmt: skip
            curved = splitting.gram(weight, dense["G"])
            if dense["P"] is not None:
                curved = curved + dense["P"]
            rows = curved.new_zeros(0, n) if dense["A"] is None else dense["A"]
            system = KKTSystem(curved, rows, active(rows), all_active=True)
            system.factor()
            return system

        def active(rows: Tensor) -> Tensor:
            return torch.ones(batch, rows.shape[-2], dtype=torch.bool, device=rows.device)

        kept = constants.once_for("factors", ("P", "A", "G"), weight, made)
        held = kept.operator
        rows = held.dense_rows
        self._system = KKTSystem(held.hessian, rows, active(rows), all_active=True, like=kept)
        self.failed: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None
        factors = self._system.factors
        if factors.singular and factors.careful is not None:
            open_x = factors.null_vectors[:, :n].abs().amax((-2, -1)) > _CONTRADICTED
            failed = torch.zeros_like(factors.nullity, dtype=torch.bool)
            failed[factors.careful] = open_x
            failed = failed | self._contradicted()
            self.failed = failed if bool(failed.any()) else None

    def _contradicted(self) -> Tensor:
        """Return the samples whose b is not in the range of A. Shape (B,), bool."""
        with torch.no_grad():
            zero = self._system.operator.dense_rows.new_zeros(self._batch, self._n)
            right = zero if self._b is None else self._right(zero, objective=False)
            found = self._system.solve(right)
            gap = (right - self._system.operator.product(found)).abs().amax(-1)
            contradicted: Tensor = gap > _CONTRADICTED * right.abs().amax(-1)
            return contradicted

    def _right(self, pull: Tensor, *, objective: bool = True) -> Tensor:
        right = pull if self._q is None or not objective else pull - self._q
        if self._b is not None:
            right = torch.cat([right, self._b.expand(self._batch, -1)], dim=-1)
        return right

    def solve(self, pull: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and ν of K (x, ν) = (pull - q, b). Shapes (B, n) -> (B, n), (B, p)."""
        right = self._right(pull)
        if self.failed is not None:
            right = torch.where(self.failed[:, None], 0.0, right)
        solved = self._system.solve(right)
        self._last = right, solved
        return solved[:, : self._n], solved[:, self._n :]

    def ambiguities(
        self, cotangent: Tensor, parameters: Mapping[str, Tensor]
    ) -> Sequence[Ambiguity]:
        """Return which derivatives of the last x do not exist, for its cotangent (B, n)."""
        if self._last is None or not self._system.factors.singular:
            return ()
        right, found = self._last
        whole = torch.cat([cotangent, torch.zeros_like(found[:, self._n :])], -1)
        if self.failed is not None:
            whole = torch.where(self.failed[:, None], 0.0, whole)
        return ambiguities(self._system, right, found, whole, parameters, self._named)

    def _named(self, sample: int) -> str:
        factors = self._system.factors
        if factors.careful is None:
            return ""
        where = int(torch.nonzero(factors.careful == sample)[0])
        size = factors.null_vectors[where].abs().amax(-1)[self._n :]
        numbers = torch.nonzero(size > 1e-3 * size.max()).flatten().tolist()
        return f"equality {', '.join(map(str, numbers))}"

    def keep_failed(self, updated: Tensor, state: Tensor) -> Tensor:
        """Return the update, with failed samples held in place without gradient."""
        if self.failed is None:
            return updated
        return torch.where(self.failed[:, None], state.detach(), updated)
