"""The portfolio experiment: data, exact reference, layers against it, failures, training, runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mpmath
import pytest
import torch
from foldcore_paper.catalogue import experiment_named
from foldcore_paper.errors import PaperError
from foldcore_paper.experiments.portfolio.data import Market, MarketSettings, generate_market
from foldcore_paper.experiments.portfolio.layers import (
    FoldedOptions,
    FoldedPortfolio,
    Portfolios,
)
from foldcore_paper.experiments.portfolio.methods import CVXPY, FOLDED, make_layer, unusable_reason
from foldcore_paper.experiments.portfolio.observe import observed
from foldcore_paper.experiments.portfolio.reference import ExactPortfolios, solve_exactly
from foldcore_paper.experiments.portfolio.settings import PortfolioSettings
from foldcore_paper.experiments.portfolio.training import make_network, train
from foldcore_paper.runner import run_experiment
from foldcore_paper.settings import Size, read_settings
from torch import Tensor

F64 = torch.float64
NO_GUROBI = unusable_reason("fsqp-gurobi")
needs_gurobi = pytest.mark.skipif(NO_GUROBI is not None, reason=f"gurobi: {NO_GUROBI}")
pytest.importorskip("foldcore_daqp", reason="f-SQP's inner problem needs foldcore-daqp")


def market(degree: int = 2, seed: int = 0, n_test: int = 8) -> Market:
    return generate_market(MarketSettings(), degree, seed, n_train=64, n_test=n_test)


def cotangent(prices: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(prices.shape, generator=generator, dtype=F64)


def exact(of: Market, prices: Tensor) -> ExactPortfolios:
    return solve_exactly(prices, of.covariance, of.gamma)


def solve(method: str, of: Market, prices: Tensor) -> tuple[Portfolios, Tensor]:
    leaf = prices.clone().requires_grad_()
    with observed():
        answer = make_layer(method, of)(leaf)
        (answer.weights * cotangent(prices)).sum().backward()
    return answer, leaf.grad


def relative(value: Tensor, reference: Tensor) -> float:
    return float(((value - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


# ---- data


def test_prices_and_risk_limit_follow_the_source():
    large = generate_market(MarketSettings(), 3, 1, n_train=40_000, n_test=1)
    again = generate_market(MarketSettings(), 3, 1, n_train=40_000, n_test=1)
    assert torch.equal(large.train_prices, again.train_prices)
    n = 20
    # The equal-weight portfolio has the mean entry of V as its variance.
    equal = torch.full((n,), 1 / n, dtype=F64)
    assert large.gamma == pytest.approx(2.25 * float(equal @ large.covariance @ equal), rel=1e-12)
    # What is left after the signal's best linear and cubic terms in each asset's own direction is noise
    # with covariance V: check its trace by regressing out all monomials up to degree 3.
    x = large.train_features
    columns = [torch.ones(len(x), dtype=F64)]
    for i in range(5):
        columns.append(x[:, i])
        for j in range(i, 5):
            columns.append(x[:, i] * x[:, j])
            columns += [x[:, i] * x[:, j] * x[:, k] for k in range(j, 5)]
    design = torch.stack(columns, 1)
    fitted = design @ torch.linalg.lstsq(design, large.train_prices).solution
    noise = (large.train_prices - fitted).T @ (large.train_prices - fitted) / len(x)
    assert float((noise - large.covariance).abs().max()) < 0.03 * float(large.covariance.max())


def test_a_market_whose_portfolios_may_be_vertices_is_refused():
    with pytest.raises(PaperError, match="one asset alone"):
        generate_market(MarketSettings(assets=2), 1, 0, n_train=1, n_test=1)


# ---- the exact reference


def test_the_exact_portfolio_satisfies_the_kkt_conditions_to_rounding():
    one = market(n_test=400)
    found = exact(one, one.test_prices)
    x, prices = found.weights, one.test_prices
    scaled = one.covariance / one.gamma
    risk = ((x @ scaled) * x).sum(-1)
    assert float((risk - 1).abs().max()) < 1e-13
    assert float((x.sum(-1) - 1).abs().max()) < 1e-13
    assert float(x.min()) >= 0
    slope = prices - found.scale[:, None] * (x @ scaled)
    held = found.held
    nu = torch.where(held, slope, 0.0).sum(-1, keepdim=True) / held.sum(-1, keepdim=True)
    size = prices.abs().amax(-1, keepdim=True)
    assert float(torch.where(held, (slope - nu).abs() / size, 0.0).max()) < 1e-13
    assert float(torch.where(held, 0.0, (slope - nu) / size).max()) < 1e-13


def test_the_exact_gradient_agrees_with_central_differences():
    one = market()
    prices, weights = one.test_prices, cotangent(one.test_prices)
    gradient = exact(one, prices).gradient(weights)
    step, numeric = 1e-7, torch.zeros_like(prices)
    for i in range(prices.shape[-1]):
        shift = torch.zeros_like(prices)
        shift[:, i] = step
        upper, lower = (exact(one, prices + sign * shift).weights for sign in (1, -1))
        numeric[:, i] = ((upper - lower) * weights).sum(-1) / (2 * step)
    assert relative(numeric, gradient) < 1e-6


def test_the_exact_portfolio_agrees_with_newton_in_forty_digits():
    one = market()
    found = exact(one, one.test_prices[:1])
    held = torch.nonzero(found.held[0]).flatten().tolist()
    with mpmath.workdps(40):
        covariance = mpmath.matrix(one.covariance[held][:, held].tolist())
        price = [mpmath.mpf(v) for v in one.test_prices[0][held].tolist()]
        gamma, count = mpmath.mpf(one.gamma), len(held)

        def conditions(*z):
            x, mu, nu = mpmath.matrix(z[:count]), z[count], z[count + 1]
            risk = covariance * x
            rows = [price[i] - 2 * mu * risk[i] - nu for i in range(count)]
            return [*rows, mpmath.fsum(x) - 1, ((x.T * risk)[0] - gamma) / gamma]

        s = float(found.scale[0])
        x0 = found.weights[0][held]
        slope = one.test_prices[0][held] - s * (one.covariance / one.gamma)[held][:, held] @ x0
        start = [*x0.tolist(), s / (2 * one.gamma), float(slope.mean())]
        root = mpmath.findroot(conditions, start, tol=1e-50, maxsteps=20)
        x = torch.tensor([float(root[i]) for i in range(count)], dtype=F64)
    assert float((found.weights[0][held] - x).abs().max()) < 1e-13


@pytest.mark.parametrize(
    "prices", [torch.zeros(1, 20, dtype=F64), torch.full((1, 20), 0.1, dtype=F64)]
)
def test_equal_prices_have_no_unique_portfolio(prices):
    one = market()
    with pytest.raises(PaperError, match="no exact solution for 1 price vectors"):
        exact(one, prices)


def test_the_search_for_the_held_assets_ends_for_any_scale_of_prices():
    one = market()
    generator = torch.Generator().manual_seed(2)
    normal = torch.randn(2000, 20, generator=generator, dtype=F64)
    for prices in (normal, 0.1 + 1e-6 * normal, normal.abs() ** 6):
        assert int(exact(one, prices).free_directions.min()) >= 1


# ---- layers against the reference, in natural units


@pytest.mark.parametrize(
    ("method", "x_tolerance", "gradient_tolerance"),
    [("fsqp-clarabel", 1e-12, 1e-6), ("fsqp-clarabel-duals", 1e-12, 1e-10),
     ("newton-clarabel", 1e-12, 1e-10)],
)  # fmt: skip
def test_clarabel_with_polish_is_exact(method, x_tolerance, gradient_tolerance):
    check_exact(method, x_tolerance, gradient_tolerance)


@needs_gurobi
@pytest.mark.parametrize(
    ("method", "x_tolerance", "gradient_tolerance"),
    [("fsqp-gurobi", 1e-12, 1e-6), ("fsqp-gurobi-duals", 1e-12, 1e-10),
     ("fsqp-gurobi-defaults-polished", 1e-6, 1e-4)],
)  # fmt: skip
def test_gurobi_with_polish_is_exact(method, x_tolerance, gradient_tolerance):
    check_exact(method, x_tolerance, gradient_tolerance)


def check_exact(method: str, x_tolerance: float, gradient_tolerance: float) -> None:
    for degree in (1, 3):
        one = market(degree=degree)
        found = exact(one, one.test_prices)
        answer, gradient = solve(method, one, one.test_prices)
        assert bool(answer.solved.all())
        assert relative(answer.weights.detach(), found.weights) < x_tolerance
        expected = found.gradient(cotangent(one.test_prices))
        assert relative(gradient, expected) < gradient_tolerance


@needs_gurobi
def test_polish_mends_gurobis_default_tolerances():
    one = market()
    found = exact(one, one.test_prices)
    raw, polished = (
        relative(solve(name, one, one.test_prices)[0].weights.detach(), found.weights)
        for name in ("fsqp-gurobi-defaults", "fsqp-gurobi-defaults-polished")
    )
    assert polished <= raw
    assert polished < 1e-6


def test_cvxpylayers_depends_on_how_the_risk_is_written_and_on_tolerances():
    one = market()
    found = exact(one, one.test_prices)
    expected = found.gradient(cotangent(one.test_prices))
    errors = {}
    for method in ("cvxpylayers", "cvxpylayers-tight-dense", "cvxpylayers-squares"):
        answer, gradient = solve(method, one, one.test_prices)
        errors[method] = (
            relative(answer.weights.detach(), found.weights),
            relative(gradient, expected),
        )
    assert max(errors["cvxpylayers-tight-dense"]) < 1e-6
    assert 1e-4 < errors["cvxpylayers"][0] < 0.1
    assert min(errors["cvxpylayers-squares"]) > 0.5


# ---- samples that fail, and degenerate ones


def test_foldcore_masks_a_bad_sample_and_keeps_the_others():
    one = market()
    bad = one.test_prices.clone()
    bad[3] = float("inf")
    clean, clean_gradient = solve("fsqp-clarabel", one, one.test_prices)
    answer, gradient = solve("fsqp-clarabel", one, bad)
    others = [0, 1, 2, 4, 5, 6, 7]
    assert answer.solved.tolist() == [i != 3 for i in range(8)]
    assert torch.equal(answer.weights[others], clean.weights[others])
    assert torch.equal(gradient[others], clean_gradient[others])
    assert not answer.raised
    assert float(answer.weights[3].detach().abs().max()) == float(gradient[3].abs().max()) == 0


def test_cvxpylayers_loses_the_whole_batch_of_a_bad_sample():
    one = market()
    bad = one.test_prices.clone()
    bad[3] = float("inf")
    with observed():
        answer = make_layer("cvxpylayers", one)(bad.requires_grad_())
    assert answer.raised
    assert not bool(answer.solved.any())


def test_without_an_active_risk_constraint_the_gradient_is_zero():
    one = market()
    loose = Market(**{**vars(one), "gamma": 2 * float(one.covariance.max())})
    answer, gradient = solve("fsqp-clarabel", loose, one.test_prices)
    best = torch.nn.functional.one_hot(one.test_prices.argmax(-1), 20).to(F64)
    assert float((answer.weights - best).abs().max()) < 1e-9
    assert float(gradient.abs().max()) < 1e-9


def test_prices_without_a_unique_portfolio_are_masked():
    one = market()
    prices = one.test_prices[:2].clone()
    prices[1] = 0.1
    good = exact(one, prices[:1])
    answer, gradient = solve("fsqp-clarabel-duals", one, prices)
    assert answer.solved.tolist() == [True, False]
    assert relative(gradient[:1], good.gradient(cotangent(prices)[:1])) < 1e-10
    assert relative(answer.weights[:1].detach(), good.weights) < 1e-10
    assert float(gradient[1].abs().max()) == 0


def test_a_weakly_active_asset_counts_as_degenerate_and_gets_a_one_sided_gradient():
    one = market()
    prices = one.test_prices[:2].clone()
    found = exact(one, prices)
    x, scaled = found.weights[0], one.covariance / one.gamma
    slope = prices[0] - found.scale[0] * (x @ scaled)
    weak = int(torch.nonzero(~found.held[0]).flatten()[0])
    # Raise this asset's price until its multiplier is zero: x* stays, and has a kink there.
    prices[0, weak] += slope[found.held[0]].mean() - slope[weak]
    answer, gradient = solve("fsqp-clarabel-duals", one, prices)
    assert answer.degenerate == 1
    assert relative(answer.weights[:1].detach(), x[None]) < 1e-7
    sides = []
    for side in (True, False):
        held = found.held.clone()
        held[0, weak] = side
        sides.append(replace(found, held=held).gradient(cotangent(prices)))
    assert min(relative(gradient[:1], one_side[:1]) for one_side in sides) < 1e-5
    assert relative(sides[0][:1], sides[1][:1]) > 1e-3
    assert relative(gradient[1:], sides[0][1:]) < 1e-8


# ---- training


def settings_for(**changes: object) -> PortfolioSettings:
    found = read_settings(experiment_named("portfolio"), Size.TINY)
    assert isinstance(found, PortfolioSettings)
    return found.model_copy(update=changes)


def test_all_methods_start_from_the_same_weights():
    first, again = (make_network(5, 8, 20, seed=3) for _ in range(2))
    assert len([m for m in first if isinstance(m, torch.nn.Linear)]) == 5
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    state = torch.random.get_rng_state()
    make_network(5, 8, 20, seed=4)
    assert torch.equal(state, torch.random.get_rng_state())


def test_training_lowers_regret_and_the_exact_layers_agree():
    """Two rules over one solver take the same steps: the trained networks are the same."""
    settings = settings_for()
    one = generate_market(MarketSettings(), 2, 0, n_train=64, n_test=64)
    runs = {
        method: train(settings, method, one, 0) for method in ("fsqp-clarabel", "newton-clarabel")
    }
    regrets = {name: [float(row["regret_percent"]) for row in rows] for name, rows in runs.items()}
    assert regrets["fsqp-clarabel"] == pytest.approx(regrets["newton-clarabel"], rel=1e-6)
    assert regrets["fsqp-clarabel"][-1] < 0.7 * regrets["fsqp-clarabel"][0]
    last = runs["fsqp-clarabel"][-1]
    assert last["own_regret_percent"] == pytest.approx(last["own_exact_regret_percent"], rel=1e-9)
    assert last["skipped_batches"] == last["masked_samples"] == last["adjoint_failures"] == 0


def test_skipped_batches_are_counted_and_change_nothing(monkeypatch):
    class Raising(FoldedPortfolio):
        def __call__(self, prices: Tensor) -> Portfolios:
            nothing = torch.zeros(len(prices), dtype=torch.bool)
            return Portfolios(torch.zeros_like(prices), nothing, raised=True)

    monkeypatch.setattr(
        "foldcore_paper.experiments.portfolio.training.make_layer",
        lambda name, of: Raising(of, FoldedOptions({"kind": "clarabel"}, {"kind": "newton"})),
    )
    settings = settings_for()
    rows = train(
        settings, "planted", generate_market(MarketSettings(), 1, 0, n_train=64, n_test=16), 0
    )
    assert rows[-1]["skipped_batches"] == 2 * settings.epochs
    assert rows[-1]["regret_percent"] == rows[0]["regret_percent"]


# ---- runs


def test_every_method_of_the_settings_exists():
    for size in Size:
        settings = read_settings(experiment_named("portfolio"), size)
        names = {*settings.methods, *settings.accuracy.methods, *settings.timing.methods}
        assert names <= {*FOLDED, *CVXPY, "two-stage"}


def test_a_tiny_run_shows_what_the_experiment_is_about(tmp_path: Path):
    experiment = experiment_named("portfolio")
    results = run_experiment(experiment, settings_for(), tmp_path)
    tables = experiment.summarise(results)
    training = results[results["part"] == "training"]
    last = training[training["epoch"] == training["epoch"].max()].set_index("method")
    assert (
        last.loc["fsqp-clarabel", "regret_percent"]
        < last.loc["cvxpylayers-squares", "regret_percent"]
    )
    assert last.loc["fsqp-clarabel", "own_largest_violation"] < 1e-12
    assert last.loc["cvxpylayers-squares", "own_largest_violation"] > 1
    first = training[training["epoch"] == 0]
    assert first["regret_percent"].nunique() == 1
    accuracy = results[results["part"] == "accuracy"].groupby("method")["x_error"].max()
    assert (
        accuracy["fsqp-clarabel"] < 1e-10 < accuracy["cvxpylayers-tight"] < accuracy["cvxpylayers"]
    )
    assert len(tables) == 5
    for figure in experiment.draw(results, tmp_path):
        assert 0 < figure.stat().st_size < 150_000


def test_without_a_licence_gurobis_cells_are_named_and_the_rest_runs(monkeypatch):
    monkeypatch.setattr(
        "foldcore_paper.experiments.portfolio.experiment.unusable_reason",
        lambda method: "no licence" if "gurobi" in method else None,
    )
    experiment = experiment_named("portfolio")
    settings = read_settings(experiment, Size.QUICK)
    cells = experiment.cells(settings)
    skipped = [cell for cell in cells if cell.labels["part"] == "skipped"]
    assert {cell.labels["method"] for cell in skipped} >= {"fsqp-gurobi"}
    assert all("gurobi" in str(cell.labels["method"]) for cell in skipped)
    trained = {cell.labels["method"] for cell in cells if cell.labels["part"] == "training"}
    assert "fsqp-clarabel" in trained
    assert not any("gurobi" in str(method) for method in trained)
    (row,) = experiment.run(settings, skipped[0], None)
    assert row == {"reason": "no licence"}
