"""Number of LFPI products with the default step 1/L and with ``step_size: auto``.

Ten ill-conditioned box-constrained QPs (condition 1e3). Prints the table of
docs/benchmarks.md: ``python benchmarks/step_size.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import foldcore as fc
from foldcore import hooks
from foldcore.testing.problems import declare, random_qp

N = 20
CONDITION = 1e3


@dataclass(frozen=True)
class Row:
    """One instance: ρ(Φ) and products for rtol 1e-8, at both steps."""

    seed: int
    default_radius: float
    default_products: int
    best_radius: float
    best_products: int


class _Products:
    """A listener that remembers the products of the last adjoint solve."""

    count = 0

    @hooks.hookimpl
    def foldcore_adjoint_finished(self, adjoint: fc.AdjointSolution) -> None:
        self.count = int(adjoint.iterations.max())


def instance(seed: int) -> dict[str, Tensor]:
    """Return a random QP whose Hessian has eigenvalues spread over three decades."""
    data = random_qp(seed, N)
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64))
    spectrum = torch.logspace(0, float(torch.log10(torch.tensor(CONDITION))), N).double()
    data["P"] = basis @ torch.diag(spectrum) @ basis.T
    data["q"] = 5 * data["q"]
    return data


def measure(seed: int) -> Row:
    """Fold one instance with both steps."""
    data = instance(seed)
    found: list[tuple[float, int]] = []
    for step in (None, "auto"):
        layer = fc.build(
            {
                "problem": declare(data, {"q"}),
                "solver": "osqp",
                "rule": {"kind": "pgd", "step_size": step},
                "adjoint": {"kind": "lfpi", "max_iter": 200_000},
            }
        )
        q = data["q"].clone().requires_grad_()
        listener = _Products()
        with hooks.listening(listener):
            layer(q=q).square().sum().backward()
        radius = float(fc.diagnose(layer, q=data["q"]).spectral_radius)
        found.append((radius, listener.count))
    (default_radius, default_products), (best_radius, best_products) = found
    return Row(seed, default_radius, default_products, best_radius, best_products)


def table(rows: list[Row]) -> str:
    """Return a Markdown table."""
    lines = [
        "| instance | ρ(Φ) at 1/L | products | ρ(Φ) at auto | products | ratio |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.seed} | {r.default_radius:.5f} | {r.default_products} | {r.best_radius:.5f} | "
        f"{r.best_products} | {r.default_products / r.best_products:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([measure(seed) for seed in range(10)]))
