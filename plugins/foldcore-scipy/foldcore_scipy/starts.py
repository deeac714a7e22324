"""Where a sample's iterations start."""

from __future__ import annotations

import numpy as np

from foldcore import SampleStart

from .config import ScipyConfig
from .evaluation import Evaluation, Floats


def starting_points(
    evaluation: Evaluation, config: ScipyConfig, warm: SampleStart | None
) -> list[Floats]:
    """Return the points to start from: the warm or the configured one, then the random ones.

    Random points are uniform between two finite bounds, else normal around the middle. They depend
    on the seed and the bounds alone, so that a sample's answer does not depend on its batch.
    """
    lower, upper = evaluation.lower, evaluation.upper
    middle = _middle(lower, upper)
    first = middle if config.start == "midpoint" else np.zeros(evaluation.n)
    points = [np.clip(first if warm is None else warm.x, lower, upper)]
    generator = np.random.default_rng(config.seed)
    boxed = np.isfinite(lower) & np.isfinite(upper)
    for _ in range(config.restarts):
        uniform = generator.random(evaluation.n)
        normal = generator.standard_normal(evaluation.n)
        around = middle + normal * (1 + np.abs(middle))
        width = np.where(boxed, upper, 0.0) - np.where(boxed, lower, 0.0)
        points.append(np.where(boxed, lower + uniform * width, np.clip(around, lower, upper)))
    return points


def _middle(lower: Floats, upper: Floats) -> Floats:
    below, above = np.isfinite(lower), np.isfinite(upper)
    low, high = np.where(below, lower, 0.0), np.where(above, upper, 0.0)
    one_sided = np.where(below, low + 1.0, np.where(above, high - 1.0, 0.0))
    return np.where(below & above, low + (high - low) / 2, one_sided)
