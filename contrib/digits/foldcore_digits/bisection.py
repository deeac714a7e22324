"""The forward solver: a bisection on the one multiplier, which the layer sees as a black box."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from foldcore import SmoothProgram

# The bracket is (max c - min c)/τ + log(n/k) wide; 60 halvings take it below rounding.
_HALVINGS = 60


def bisect_top_k(k: int, temperature: float) -> Callable[[SmoothProgram], Tensor]:
    """Return a solver of min -cᵀx + τ Σ x log x over {0 <= x <= 1, Σ x = k}, for a whole batch.

    The optimum is x = min(1, exp(c/τ + s)), where s is the root of Σ x = k, increasing in s. At
    s = log(k/n) - max c/τ no entry exceeds k/n, at s = -min c/τ all are 1.

    Args:
        k: Sum of x, 1 <= k < n.
        temperature: τ > 0, in units of c.

    Returns:
        A callable: program with the parameter c (B, n) or (n,) -> x (B, n).
    """

    def bisect(program: SmoothProgram) -> Tensor:
        scores = program.params["c"].expand(program.batch, program.n) / temperature
        low = log(k / program.n) - scores.amax(-1, keepdim=True)
        high = -scores.amin(-1, keepdim=True)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = torch.exp((scores + middle).clamp(max=0)).sum(-1, keepdim=True) > k
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return torch.exp((scores + (low + high) / 2).clamp(max=0))

    return bisect
