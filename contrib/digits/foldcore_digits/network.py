"""The network: one hidden layer, and logits that cannot leave a stated range."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .data import CLASSES

PIXELS = 64
HIDDEN = 64
LOGIT_SCALE = 2.0
"""Bound on the logits: c = 2·tanh(z/2), so that max x / min x <= exp(4) = 55 for τ = 1."""


class BoundedNetwork(nn.Module):
    """64 pixels -> 64 ReLU units -> 10 logits in (-2, 2), float64.

    The weights are float32; only the logits are converted, for the layer behind them works in
    float64. The last layer is not initialised to zero: on equal logits qpth fails.

    Args:
        seed: Decides the initial weights; torch's global generator is left as it is.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.Linear(PIXELS, HIDDEN)
            self.output = nn.Linear(HIDDEN, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits c. Shapes (B, 64) -> (B, 10)."""
        raw: Tensor = self.output(torch.relu(self.hidden(images)))
        return LOGIT_SCALE * torch.tanh(raw.double() / LOGIT_SCALE)
