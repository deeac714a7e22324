"""The losses: likelihood under a smooth top-k, and plain softmax cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, n), labels (B,)) -> the mean loss of the batch, a scalar."""


class TopKLoss:
    """The mean of -log x_y, where x is the smooth top-k of the logits and y the label.

    This is the cross-entropy of the layer's output. Σ x = k, so a label costs nothing as soon as it
    is surely among the k chosen. Source: Amos, Koltun, Kolter, "The Limited Multi-Label Projection
    Layer" (2019), with Σ x log x for the binary entropy; that is the experiment of Kotary,
    Dinh, Fioretto, appendix E.3. Berrada et al. (2018) use a smoothed hinge loss instead; from them
    comes the label noise.

    Args:
        top_k: c (B, n) -> x (B, n).
    """

    def __init__(self, top_k: Callable[[Tensor], Tensor]) -> None:
        self._top_k = top_k

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        chosen = self._top_k(logits).gather(-1, labels[:, None])
        return -chosen.log().mean()


class SoftmaxLoss:
    """Softmax cross-entropy."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels)
