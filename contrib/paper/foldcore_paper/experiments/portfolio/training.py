"""Train the network that predicts prices: on regret through a layer, or on the mean squared error.

All methods start from the same weights, see the same batches in the same order and take as many steps.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...experiment import Row
from .data import Market
from .layers import PortfolioLayer
from .methods import TWO_STAGE, make_layer
from .observe import observed
from .reference import solve_exactly
from .settings import PortfolioSettings


def make_network(features: int, hidden: int, assets: int, seed: int) -> nn.Sequential:
    """Return the five-layer ReLU network in float64, its weights drawn from the seed alone."""
    sizes = [features, hidden, hidden, hidden, hidden, assets]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass
class Tally:
    """What happened in the steps so far.

    Attributes:
        seconds: Time in forward pass, backward pass and step (seconds).
        skipped_batches: The layer raised: no step was taken (count).
        masked_samples: Samples without a solution in other batches; they were left out (count).
        degenerate_samples: Samples without strict complementarity (count).
        doubted_samples: Samples that the layer called inaccurate itself, and used (count).
        adjoint_failures: Batches with an adjoint that did not converge (count).
        nonfinite_gradients: Batches whose gradient was NaN or infinite: no step was taken (count).
    """

    seconds: float = 0.0
    skipped_batches: int = 0
    masked_samples: int = 0
    degenerate_samples: int = 0
    doubted_samples: int = 0
    adjoint_failures: int = 0
    nonfinite_gradients: int = 0


def train(settings: PortfolioSettings, method: str, market: Market, seed: int) -> list[Row]:
    """Train one model; return one row an epoch, the first before training.

    ``regret_percent`` is the exact regret of the predicted prices on the test set: the profit lost by
    the exact portfolio of (20) for the predicted prices, relative to that for the true ones. It judges
    the predictions of all methods alike, whatever solver trained them; the last row adds what the layer's
    own portfolios are worth and by how much they break the constraints.
    """
    network = make_network(
        market.train_features.shape[-1], settings.hidden, len(market.covariance), seed
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    layer = None if method == TWO_STAGE else make_layer(method, market)
    best = solve_exactly(market.test_prices, market.covariance, market.gamma).weights
    tally = Tally()
    rows: list[Row] = [_row(0, network, market, best, tally)]
    for epoch in range(1, settings.epochs + 1):
        shuffle = torch.Generator().manual_seed(1_000_003 * (seed + 1) + epoch)
        order = torch.randperm(len(market.train_features), generator=shuffle)
        for batch in torch.split(order, settings.batch_size):
            _step(network, optimiser, layer, market, batch, tally)
        rows.append(_row(epoch, network, market, best, tally))
    if layer is not None:
        rows[-1] |= own_decisions(layer, network, market, best, settings.decision_samples)
    return rows


def _step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    layer: PortfolioLayer | None,
    market: Market,
    batch: Tensor,
    tally: Tally,
) -> None:
    features, prices = market.train_features[batch], market.train_prices[batch]
    started = time.perf_counter()
    optimiser.zero_grad()
    with observed() as seen:
        loss = _loss(network(features), prices, layer, tally)
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
    tally.adjoint_failures += int(seen.adjoint_failures > 0)
    if loss is not None:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if all(bool(torch.isfinite(one).all()) for one in gradients):
            optimiser.step()
        else:
            tally.nonfinite_gradients += 1
    tally.seconds += time.perf_counter() - started


def _loss(
    predicted: Tensor, prices: Tensor, layer: PortfolioLayer | None, tally: Tally
) -> Tensor | None:
    """Return the loss, or None where the layer has no solution for any sample.

    The regret's other term, the profit of the best portfolio, does not depend on the network.
    """
    if layer is None:
        return nn.functional.mse_loss(predicted, prices)
    answer = layer(predicted)
    tally.degenerate_samples += answer.degenerate
    tally.doubted_samples += answer.doubted
    if answer.raised or not bool(answer.solved.any()):
        tally.skipped_batches += 1
        return None
    tally.masked_samples += int((~answer.solved).sum())
    return -(answer.weights * prices).sum() / answer.solved.sum()


def _row(epoch: int, network: nn.Module, market: Market, best: Tensor, tally: Tally) -> Row:
    with torch.no_grad():
        predicted = network(market.test_features)
    chosen = solve_exactly(predicted, market.covariance, market.gamma).weights
    return {
        "epoch": epoch,
        "regret_percent": _regret_percent(chosen, best, market.test_prices),
        "train_seconds": tally.seconds,
        "skipped_batches": tally.skipped_batches,
        "masked_samples": tally.masked_samples,
        "degenerate_samples": tally.degenerate_samples,
        "doubted_samples": tally.doubted_samples,
        "adjoint_failures": tally.adjoint_failures,
        "nonfinite_gradients": tally.nonfinite_gradients,
    }


def own_decisions(
    layer: PortfolioLayer, network: nn.Module, market: Market, best: Tensor, count: int
) -> Row:
    """Judge the portfolios that the layer itself returns for the first ``count`` test samples.

    A portfolio that breaks the risk constraint may have a negative regret. The exact portfolios of the
    same predictions stand beside them.
    """
    with torch.no_grad(), observed():
        predicted = network(market.test_features[:count])
        answer = layer(predicted)
    x, solved = answer.weights[answer.solved], answer.solved
    if not len(x):
        return {"own_solved_samples": 0}
    prices, best = market.test_prices[:count][solved], best[:count][solved]
    exact = solve_exactly(predicted[solved], market.covariance, market.gamma).weights
    risk = ((x @ market.covariance) * x).sum(-1) / market.gamma - 1
    infeasible = torch.stack([risk, (x.sum(-1) - 1).abs(), -x.amin(-1)]).amax(0)
    return {
        "own_solved_samples": len(x),
        "own_regret_percent": _regret_percent(x, best, prices),
        "own_exact_regret_percent": _regret_percent(exact, best, prices),
        "own_largest_violation": float(infeasible.max()),
    }


def _regret_percent(chosen: Tensor, best: Tensor, prices: Tensor) -> float:
    top = (best * prices).sum()
    return float(100 * (top - (chosen * prices).sum()) / top)
