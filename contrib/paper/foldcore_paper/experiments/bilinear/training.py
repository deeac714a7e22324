"""The network and its training by squared error or by regret."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .data import Dataset
from .problem import Bilinear, foldcore_warnings, folded_layer
from .settings import BilinearSettings, Method

ZERO = 1e-12
"""Largest gradient, relative to its cotangent, that counts as zero: what a fold's rounding leaves."""


@dataclass
class EpochReport:
    """What happened in one epoch of training.

    Attributes:
        samples: Samples trained on.
        zero_gradients: Those whose gradient with respect to (c, d) was zero.
        vertices: Those whose decision was a vertex: no free direction.
        failed: Those that were masked: no certified solution.
        adjoint_warnings: Warnings of adjoint solves that did not converge.
        kkt_residual: Largest scaled KKT residual of a decision.
        seconds: Time.
    """

    samples: int = 0
    zero_gradients: int = 0
    vertices: int = 0
    failed: int = 0
    adjoint_warnings: int = 0
    kkt_residual: float = 0.0
    seconds: float = 0.0


class Trainer:
    """A network that predicts (c, d), trained by Adam; each loss starts with a fresh Adam.

    Adam's second moments of one loss would scale the steps of another for hundreds of steps.

    Invariant: network, order of batches and number of steps depend on the settings and the
    objective's seed alone, so that all methods start from one network and see one sequence of batches.
    """

    def __init__(
        self,
        settings: BilinearSettings,
        data: Dataset,
        problem: Bilinear,
        method: Method,
        seed: int,
    ) -> None:
        self._settings, self._data, self._problem = settings, data, problem
        self._method = method
        self._order = torch.Generator().manual_seed(seed)
        self.network = make_network(settings, seed)

    def predict(self, features: Tensor) -> Tensor:
        """Return (c, d) without gradient. (B, features) -> (B, 2n)."""
        with torch.no_grad():
            prediction: Tensor = self.network(features)
        return prediction

    def epochs(self) -> Iterator[EpochReport]:
        """Train an epoch at a time: first those on the squared error, then those on regret."""
        method = self._method
        if method.two_stage_epochs:
            yield from self._phase(_SquaredError(), method.two_stage_epochs)
        if method.regret_epochs:
            yield from self._phase(
                _Regret(self._problem, self._settings, method), method.regret_epochs
            )

    def _phase(self, loss: _SquaredError | _Regret, epochs: int) -> Iterator[EpochReport]:
        rate = self._method.learning_rate
        optimiser = torch.optim.Adam(self.network.parameters(), lr=rate)
        for _ in range(epochs):
            yield self._epoch(loss, optimiser)

    def _epoch(
        self, loss: _SquaredError | _Regret, optimiser: torch.optim.Optimizer
    ) -> EpochReport:
        start, report = time.perf_counter(), EpochReport()
        data = self._data
        order = torch.randperm(len(data.train_features), generator=self._order)
        for batch in torch.split(order, self._settings.batch_size):
            optimiser.zero_grad()
            prediction = self.network(data.train_features[batch])
            loss.backward(prediction, data.train_costs[batch], report)
            optimiser.step()
            report.samples += len(batch)
        report.seconds = time.perf_counter() - start
        return report


def make_network(settings: BilinearSettings, seed: int) -> nn.Sequential:
    """Return linear layers with ReLU between them, of PyTorch's own initialisation, float64."""
    sizes = [settings.features, *[settings.width] * (settings.layers - 1), 2 * settings.n]
    parts: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i in range(settings.layers):
            parts += [nn.Linear(sizes[i], sizes[i + 1], dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class _SquaredError:
    """The two-stage loss: mean squared error of (c, d)."""

    def backward(self, prediction: Tensor, costs: Tensor, report: EpochReport) -> None:
        torch.nn.functional.mse_loss(prediction, costs).backward()  # type: ignore[no-untyped-call]


class _Regret:
    """Mean regret of the layer's decisions, less the true optimum, which no prediction moves."""

    def __init__(self, problem: Bilinear, settings: BilinearSettings, method: Method) -> None:
        self._problem = problem
        self._layer = folded_layer(problem, settings, method)

    def backward(self, prediction: Tensor, costs: Tensor, report: EpochReport) -> None:
        costs_predicted = prediction.detach().requires_grad_()
        with foldcore_warnings() as count:
            solution = self._layer.solve(q=-costs_predicted)
            decision = solution.primal
            solved = torch.tensor([status.ok for status in solution.status])
            report.failed += int((~solved).sum())
            if not bool(solved.any()) or solution.kkt is None:
                return
            decision.retain_grad()
            regret = -self._problem.value(decision[solved], costs[solved]).sum() / len(costs)
            regret.backward()  # type: ignore[no-untyped-call]
        gradient, cotangent = costs_predicted.grad, decision.grad
        if gradient is None or cotangent is None:
            raise RuntimeError("f-PGDb returned no gradient for (c, d)")
        prediction.backward(gradient)  # type: ignore[no-untyped-call]
        still = gradient.abs().amax(-1) <= ZERO * cotangent.abs().amax(-1)
        report.adjoint_warnings += count.adjoint
        report.zero_gradients += int((still & solved).sum())
        report.vertices += int(((solution.kkt.free_directions <= 0) & solved).sum())
        residual = float(solution.kkt.residual[solved].max())
        report.kkt_residual = max(report.kkt_residual, residual)
