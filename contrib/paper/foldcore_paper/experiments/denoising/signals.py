"""Random piecewise-constant signals and their noisy copies: what the denoisers learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LENGTH = 100
"""Entries of a signal."""

MOST_PIECES, LEAST_HEIGHT, MOST_HEIGHT, NOISE = 9, 10, 99, 10.0
"""Of Amos and Kolter's generator, in their units; the noise is the unit here."""


@dataclass(frozen=True)
class Signals:
    """Noisy signals and their targets, (N, 100) each, float64, in units of the noise."""

    noisy: Tensor
    target: Tensor

    def __len__(self) -> int:
        return self.noisy.shape[0]

    def part(self, rows: Tensor | slice) -> Signals:
        """Return some of the signals."""
        return Signals(self.noisy[rows], self.target[rows])

    def split(self, test_fraction: float) -> tuple[Signals, Signals]:
        """Return the training and the test signals."""
        n_train = round(len(self) * (1 - test_fraction))
        return self.part(slice(n_train)), self.part(slice(n_train, None))


def make_signals(count: int, seed: int) -> Signals:
    """Return random signals with standard normal noise.

    A signal has 1 to 9 pieces (uniform), whose borders are distinct places drawn uniformly and whose
    heights are whole numbers drawn uniformly from 10 to 99, divided by 10: Amos and Kolter's noise has
    standard deviation 10, that of Kotary et al. has 1, and a common unit leaves the ratio as it is.

    Source: Amos and Kolter, "OptNet" (2017), section 4.2, and the generator published with it; Kotary,
    Dinh, Fioretto, Appendix E.2.
    """
    generator = torch.Generator().manual_seed(seed)
    pieces = torch.randint(1, MOST_PIECES + 1, (count, 1), generator=generator)
    # The first k-1 places of a random order are a random set of borders without repetition.
    order = torch.rand(count, LENGTH - 2, generator=generator).argsort(-1).argsort(-1)
    starts = torch.zeros(count, LENGTH, dtype=torch.int64)
    starts[:, 1:-1] = (order < pieces - 1).long()
    heights = torch.randint(
        LEAST_HEIGHT, MOST_HEIGHT + 1, (count, MOST_PIECES), generator=generator
    )
    target = heights.gather(1, starts.cumsum(-1)).double() / NOISE
    noise = torch.randn(count, LENGTH, generator=generator, dtype=torch.float64)
    return Signals(noisy=target + noise, target=target)
