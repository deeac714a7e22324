"""Random QPs with planted dependence: every gradient that exists, against the null-space formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import foldcore as fc

pytest.importorskip("foldcore_newton", reason="its step is the one that is folded")
pytest.importorskip("foldcore_direct", reason="its adjoint")

N, P_ROWS, M_ROWS = 8, 2, 12
FIELDS = ("P", "q", "A", "b", "G", "h", "lower", "upper")
KINDS = ("regular", "copy", "multiple", "sum", "bound", "vertex", "equality", "flat")
Floats = NDArray[np.float64]
Sample = dict[str, Any]


def planted(kind: str, generator: np.random.Generator) -> Sample:
    """Return the data of one QP with its solution, multipliers and active rows, known by construction."""
    draw = generator.standard_normal
    root = draw((N, N))
    P = root @ root.T + np.eye(N)
    A, G = draw((P_ROWS, N)), draw((M_ROWS, N))
    x = draw(N)
    lower, upper = np.full(N, -10.0), np.full(N, 10.0)
    active = [0, 1, 2]
    at_upper: list[int] = [0]
    upper[0] = x[0]
    if kind == "copy":
        G[3], active = G[0], [0, 1, 2, 3]
    elif kind == "multiple":
        G[3], active = 30 * G[1], [0, 1, 2, 3]
    elif kind == "sum":
        G[3], active = G[0] + G[1], [0, 1, 2, 3]
    elif kind == "bound":
        G[3], active = 3 * np.eye(N)[0], [0, 1, 2, 3]
    elif kind == "vertex":
        active = list(range(N + 2))
    elif kind == "equality":
        A[1] = -2 * A[0]
    elif kind == "flat":
        # The null space of P, a direction that no active row sees.
        held = np.vstack([A, G[active], np.eye(N)[at_upper]])
        free = null_space(held)[:, :1]
        keep = np.eye(N) - free @ free.T
        P = keep @ P @ keep
    mu, lam = np.zeros(M_ROWS), np.zeros(N)
    mu[active] = generator.uniform(0.5, 1.5, len(active))
    lam[at_upper] = generator.uniform(0.5, 1.5, len(at_upper))
    nu = draw(P_ROWS)
    h = G @ x + generator.uniform(0.5, 1.5, M_ROWS)
    h[active] = G[active] @ x
    q = -P @ x - A.T @ nu - G.T @ mu - lam
    held = np.vstack([A, G[active], np.eye(N)[at_upper]])
    return {
        "P": P, "q": q, "A": A, "b": A @ x, "G": G, "h": h, "lower": lower, "upper": upper,
        "x": x, "nu": nu, "mu": mu, "lam": lam, "held": held, "kind": kind,
    }  # fmt: skip


def null_space(rows: Floats) -> Floats:
    _, sizes, basis = np.linalg.svd(rows)
    return basis[int((sizes > 1e-10 * sizes[0]).sum()) :].T


def adjoint(sample: Sample, weights: Floats) -> Floats:
    """Return v = Z(ZᵀPZ)⁺Zᵀw, Z a basis of what the active rows leave free."""
    free = null_space(sample["held"])
    reduced: Floats = free.T @ sample["P"] @ free
    solved: Floats = free @ np.linalg.pinv(reduced, rcond=1e-10, hermitian=True) @ free.T @ weights
    return solved


def flat_direction(sample: Sample) -> Floats:
    free = null_space(sample["held"])
    values, vectors = np.linalg.eigh(free.T @ sample["P"] @ free)
    direction: Floats = free @ vectors[:, 0]
    assert values[0] < 1e-10
    return direction


def layer_of(samples: list[Sample], **config: Any) -> fc.Fold:
    problem = fc.QuadraticProgram(**{name: fc.Param(*samples[0][name].shape) for name in FIELDS})

    def known(program: fc.SmoothProgram) -> fc.Solution:
        x, nu, mu, lam = (stacked(samples, name) for name in ("x", "nu", "mu", "lam"))
        duals = fc.Duals(nu, mu, torch.zeros_like(lam), lam)
        return fc.Solution(x, (fc.Status.OPTIMAL,) * len(samples), duals)

    return fc.build(
        {"problem": problem, "solver": fc.solver(known), "rule": "newton", "adjoint": "direct",
         **config}
    )  # fmt: skip


def stacked(samples: list[Sample], name: str) -> Tensor:
    return torch.from_numpy(np.stack([sample[name] for sample in samples]))


def gradients(
    samples: list[Sample], weights: Tensor, names: tuple[str, ...], **config: Any
) -> dict[str, Tensor]:
    values = {name: stacked(samples, name).requires_grad_(name in names) for name in FIELDS}
    x = layer_of(samples, **config)(**values)
    found = torch.autograd.grad((x * weights).sum(), [values[name] for name in names])
    return dict(zip(names, found, strict=True))


def batch(seed: int, size: int = 40) -> tuple[list[Sample], Tensor]:
    """Return samples of all kinds, and weights of a loss that no flat direction changes."""
    generator = np.random.default_rng(seed)
    samples = [planted(KINDS[i % len(KINDS)], generator) for i in range(size)]
    weights = generator.standard_normal((size, N))
    for sample, row in zip(samples, weights, strict=True):
        if sample["kind"] == "flat":
            free = flat_direction(sample)
            row -= free * (free @ row)
    return samples, torch.from_numpy(weights)


@pytest.mark.parametrize("seed", range(13))
def test_gradients_that_exist_are_those_of_the_null_space_formula(seed: int) -> None:
    """13 batches of 40 samples: 520 QPs, an eighth of them regular."""
    samples, weights = batch(seed)
    found = gradients(samples, weights, ("P", "q"))
    for i, sample in enumerate(samples):
        v = adjoint(sample, weights[i].numpy())
        size = 1 + np.abs(weights[i].numpy()).max()
        assert np.abs(found["q"][i].numpy() + v).max() <= 1e-7 * size, sample["kind"]
        outer = -np.outer(v, sample["x"])
        given = found["P"][i].numpy()
        error = np.abs(given + given.T - outer - outer.T).max()
        assert error <= 1e-7 * size * (1 + np.abs(sample["x"]).max()), sample["kind"]


DEPENDENT = ("copy", "multiple", "sum", "bound", "vertex", "equality")


@pytest.mark.parametrize("seed", [20, 21])
def test_gradients_that_do_not_exist_are_reported_by_parameter_sample_and_row(seed: int) -> None:
    samples, weights = batch(seed)
    rows = [i for i, s in enumerate(samples) if s["kind"] in DEPENDENT and s["kind"] != "equality"]
    for name, kinds in (("h", rows), ("b", None)):
        with pytest.raises(fc.DegenerateError, match=f"'{name}' is not unique") as caught:
            gradients(samples, weights, (name,))
        if kinds is not None:
            assert list(caught.value.samples) == kinds
        else:
            twice = [i for i, s in enumerate(samples) if s["kind"] == "equality"]
            assert set(twice) <= set(caught.value.samples)
    copies = [s for s in samples if s["kind"] == "copy"]
    with pytest.raises(fc.DegenerateError, match=r"inequality 0, 3\)"):
        gradients(copies, torch.ones(len(copies), N, dtype=torch.float64), ("h",))
    bounds = [s for s in samples if s["kind"] == "bound"]
    with pytest.raises(fc.DegenerateError, match=r"inequality 3; upper bound 0\)"):
        gradients(bounds, torch.ones(len(bounds), N, dtype=torch.float64), ("upper",))
    flat = [s for s in samples if s["kind"] == "flat"]
    with pytest.raises(fc.DegenerateError, match=r"solution .* is not unique, and the loss"):
        gradients(flat, torch.ones(len(flat), N, dtype=torch.float64), ("q",))


def test_regular_samples_have_all_gradients_and_by_all_data() -> None:
    """Against central differences of the closed-form solution on the same active rows."""
    samples, weights = batch(30)
    regular = [s for s in samples if s["kind"] == "regular"]
    w = weights[[i for i, s in enumerate(samples) if s["kind"] == "regular"]]
    found = gradients(regular, w, FIELDS)
    for i, sample in enumerate(regular):
        for name in ("b", "h", "upper", "A", "G"):
            for index in ([0], [1]) if sample[name].ndim == 1 else ([0, 3], [1, 5]):
                slope = central_difference(sample, w[i].numpy(), name, tuple(index))
                given = float(found[name][i][tuple(index)])
                assert abs(given - slope) <= 1e-6 * (1 + abs(slope)), (name, index)


def central_difference(sample: Sample, weights: Floats, name: str, index: tuple[int, ...]) -> float:
    values = []
    for sign in (1, -1):
        data = {k: v.copy() for k, v in sample.items() if k in FIELDS}
        data[name][index] += sign * 1e-5
        active = sample["mu"] > 0
        fixed = sample["lam"] > 0
        rows = np.vstack([data["A"], data["G"][active], np.eye(N)[fixed]])
        right = np.concatenate([-data["q"], data["b"], data["h"][active], data["upper"][fixed]])
        k = len(rows)
        matrix = np.block([[data["P"], rows.T], [rows, np.zeros((k, k))]])
        values.append(weights @ np.linalg.solve(matrix, right)[:N])
    return float((values[0] - values[1]) / 2e-5)


@pytest.mark.parametrize("seed", [40, 41])
def test_regular_samples_are_bitwise_those_of_a_batch_without_the_others(seed: int) -> None:
    samples, weights = batch(seed)
    generator = np.random.default_rng(seed + 1000)
    clean = [s if s["kind"] == "regular" else planted("regular", generator) for s in samples]
    found = gradients(samples, weights, ("P", "q"))
    expected = gradients(clean, weights, ("P", "q"))
    regular = [i for i, s in enumerate(samples) if s["kind"] == "regular"]
    for name in ("P", "q"):
        assert torch.equal(found[name][regular], expected[name][regular])


def test_the_order_of_copies_does_not_matter() -> None:
    samples, weights = batch(50)
    copies = [i for i, s in enumerate(samples) if s["kind"] in ("copy", "multiple", "sum")]
    turned = []
    for i in copies:
        sample = dict(samples[i])
        order = [3, 2, 1, 0, *range(4, M_ROWS)]
        for name in ("G", "h", "mu"):
            sample[name] = sample[name][order]
        turned.append(sample)
    one = gradients([samples[i] for i in copies], weights[copies], ("q",))["q"]
    two = gradients(turned, weights[copies], ("q",))["q"]
    assert (one - two).abs().max() <= 1e-12 * one.abs().max()


def test_the_minimum_norm_policy_accepts_and_says_so() -> None:
    samples, weights = batch(60)
    copies = [i for i, s in enumerate(samples) if s["kind"] == "copy"]
    with pytest.warns(fc.DegenerateWarning, match="minimum-norm"):
        found = gradients(
            [samples[i] for i in copies], weights[copies], ("h",),
            degeneracy={"policy": "minimum_norm"},
        )  # fmt: skip
    # Equal rows share the sensitivity of the one equally.
    assert torch.allclose(found["h"][:, 0], found["h"][:, 3], rtol=1e-9)
