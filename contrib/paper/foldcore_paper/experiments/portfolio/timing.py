"""Time of the forward pass, all methods in turns within one run."""

from __future__ import annotations

import time

from ...experiment import Row
from .data import Market
from .methods import make_layer
from .observe import observed
from .settings import PortfolioSettings


def measure_times(
    settings: PortfolioSettings, methods: tuple[str, ...], market: Market
) -> list[Row]:
    """Time one batch per method and round; methods take turns, in another order each round.

    Prices require a gradient, as in training: what a method prepares for its backward pass counts. The
    first round builds models and fills caches, and is not kept.
    """
    layers = {name: make_layer(name, market) for name in methods}
    rows: list[Row] = []
    for turn in range(settings.timing.rounds + 1):
        start = turn * settings.batch_size % max(1, settings.n_test - settings.batch_size + 1)
        prices = market.test_prices[start : start + settings.batch_size]
        shift = turn % len(methods)
        for name in methods[shift:] + methods[:shift]:
            price = prices.clone().requires_grad_()
            with observed():
                started = time.perf_counter()
                answer = layers[name](price)
                seconds = time.perf_counter() - started
            if turn:
                solved = int(answer.solved.sum())
                rows.append(
                    {"method": name, "round": turn, "forward_seconds": seconds, "samples": len(price),
                     "solved_samples": solved}
                )  # fmt: skip
    return rows
