"""The rows l <= Cx <= u that ADMM splits off: C is G above the identity, never formed."""

from __future__ import annotations

import torch
from torch import Tensor

from foldcore import Duals, SmoothProgram, matvec, rmatvec


class Splitting:
    """C, l and u of a program, on the graph.

    Rows are those of G, then one per variable if the program has bounds at all.

    Attributes:
        size: m, the number of rows.
        present: 1 for a row with a finite side, 0 for one that is absent: its z equals Cx, its
            multiplier is 0, and it takes no part in step 1. Shape (m,) where that is the same for
            all samples, else (B, m).
    """

    def __init__(self, program: SmoothProgram) -> None:
        data = program.data
        self._G, self._rows, self._n = data.G, data.n_linear, program.n
        self._bounded = data.lower is not None or data.upper is not None
        self.size = self._rows + (self._n if self._bounded else 0)
        like = torch.zeros(program.n, dtype=program.dtype, device=program.device)
        upper = [] if data.h is None else [data.h]
        lower = [torch.full_like(h.detach(), -float("inf")) for h in upper]
        if self._bounded:
            lower.append(like - float("inf") if data.lower is None else data.lower)
            upper.append(like + float("inf") if data.upper is None else data.upper)
        self._lower, self._upper = _join(lower, like), _join(upper, like)
        finite = torch.isfinite(self._lower) | torch.isfinite(self._upper)
        if finite.ndim == 2 and bool((finite == finite[:1]).all()):
            finite = finite[0]
        self.present = finite.to(program.dtype)

    def clip(self, w: Tensor) -> Tensor:
        """Return z = min(max(w, l), u), (B, m), by selection: an infinite side gets no gradient.

        Where both sides coincide z is that value whatever w.
        """
        lower, upper = self._lower, self._upper
        raised = torch.where((w < lower) | (lower == upper), lower, w)
        return torch.where(w > upper, upper, raised)

    def push(self, x: Tensor) -> Tensor:
        """Return Cx. Shapes (B, n) -> (B, m)."""
        if self._G is None:
            return x if self._bounded else x[:, :0]
        rows = matvec(self._G, x)
        return torch.cat([rows, x], dim=-1) if self._bounded else rows

    def pull(self, y: Tensor) -> Tensor:
        """Return Cᵀy. Shapes (B, m) -> (B, n)."""
        if self._G is None:
            return y
        pulled = rmatvec(self._G, y[:, : self._rows])
        return pulled + y[:, self._rows :] if self._bounded else pulled

    def gram(self, weight: Tensor, rows: Tensor | None) -> Tensor:
        """Return Cᵀ diag(weight) C, (n, n) where weight and G are shared, else (B, n, n).

        Args:
            weight: (m,) or (B, m).
            rows: G as a dense tensor, None without.
        """
        split = weight[..., : self._rows], weight[..., self._rows :]
        total = weight.new_zeros(self._n, self._n)
        if rows is not None:
            total = total + rows.mT @ (split[0].unsqueeze(-1) * rows)
        return total + torch.diag_embed(split[1]) if self._bounded else total

    def join(self, duals: Duals) -> Tensor:
        """Return y, the multipliers of the rows: positive at u, negative at l. Shape (B, m)."""
        rows = duals.inequality[:, : self._rows]
        return torch.cat([rows, duals.upper - duals.lower], -1) if self._bounded else rows

    def split(self, y: Tensor, equality: Tensor) -> Duals:
        """Return y in foldcore's form, all inequality multipliers >= 0."""
        zero = y.new_zeros(())
        bounds = y[:, self._rows :] if self._bounded else y.new_zeros(y.shape[0], self._n)
        return Duals(
            equality=equality,
            inequality=y[:, : self._rows],
            lower=torch.where(bounds < 0, -bounds, zero),
            upper=torch.where(bounds > 0, bounds, zero),
        )


def _join(blocks: list[Tensor], like: Tensor) -> Tensor:
    """Concatenate vectors of which some are (k,) and some (B, k)."""
    if not blocks:
        return like[:0]
    batch = next((b.shape[0] for b in blocks if b.ndim == 2), None)
    if batch is not None:
        blocks = [b if b.ndim == 2 else b.expand(batch, -1) for b in blocks]
    return torch.cat(blocks, dim=-1)
