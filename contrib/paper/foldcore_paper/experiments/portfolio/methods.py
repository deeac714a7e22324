"""The methods compared, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

import foldcore as fc

from ...errors import PaperError
from .data import Market
from .layers import CvxpyOptions, CvxpyPortfolio, FoldedOptions, FoldedPortfolio, PortfolioLayer

TWO_STAGE = "two-stage"
"""Trained on the mean squared error of the prices; it needs no layer."""

_EXACT_QP: Mapping[str, Any] = {"solver": "daqp", "rule": "newton", "adjoint": "direct"}
_SQP: Mapping[str, Any] = {"kind": "sqp", "inner": _EXACT_QP}
_SQP_WITH_DUALS: Mapping[str, Any] = {**_SQP, "dual_state": True}
_SQP_AS_PRINTED: Mapping[str, Any] = {"kind": "sqp", "inner": {"solver": "qpth"}}

_GUROBI: Mapping[str, Any] = {"kind": "gurobi"}
_GUROBI_DEFAULTS: Mapping[str, Any] = {
    "kind": "gurobi",
    # Gurobi's own defaults: the plugin asks for 1e-9 each.
    "parameters": {
        "BarConvTol": 1e-8, "BarQCPConvTol": 1e-6, "FeasibilityTol": 1e-6, "OptimalityTol": 1e-6,
    },
}  # fmt: skip
_CLARABEL: Mapping[str, Any] = {"kind": "clarabel"}
_CLARABEL_RAW: Mapping[str, Any] = {"kind": "clarabel", "polishing": 0}

FOLDED: Mapping[str, FoldedOptions] = {
    "fsqp-gurobi": FoldedOptions(_GUROBI, _SQP),
    "fsqp-gurobi-unpolished": FoldedOptions(_GUROBI, _SQP, polish=0),
    "fsqp-gurobi-defaults": FoldedOptions(_GUROBI_DEFAULTS, _SQP, polish=0),
    "fsqp-gurobi-defaults-polished": FoldedOptions(_GUROBI_DEFAULTS, _SQP),
    "fsqp-gurobi-duals": FoldedOptions(_GUROBI, _SQP_WITH_DUALS),
    "fsqp-gurobi-qpth": FoldedOptions(_GUROBI, _SQP_AS_PRINTED, polish=0),
    "fsqp-clarabel": FoldedOptions(_CLARABEL, _SQP),
    "fsqp-clarabel-duals": FoldedOptions(_CLARABEL, _SQP_WITH_DUALS),
    "fsqp-clarabel-unpolished": FoldedOptions(_CLARABEL_RAW, _SQP, polish=0),
    "newton-clarabel": FoldedOptions(_CLARABEL, {"kind": "newton"}),
}

_TIGHT: Mapping[str, Any] = {"eps": 1e-10, "max_iters": 100_000}
CVXPY: Mapping[str, CvxpyOptions] = {
    "cvxpylayers": CvxpyOptions(),
    "cvxpylayers-tight": CvxpyOptions(arguments=_TIGHT),
    "cvxpylayers-tight-dense": CvxpyOptions(arguments={**_TIGHT, "mode": "dense"}),
    "cvxpylayers-clarabel": CvxpyOptions(arguments={"solve_method": "Clarabel"}),
    "cvxpylayers-squares": CvxpyOptions("sum_squares"),
    "cvxpylayers-squares-tight": CvxpyOptions("sum_squares", _TIGHT),
}

LAYERS = (*FOLDED, *CVXPY)


def make_layer(name: str, market: Market) -> PortfolioLayer:
    """Return the layer of that name for a market.

    Raises:
        PaperError: If there is none.
    """
    if name in FOLDED:
        return FoldedPortfolio(market, FOLDED[name])
    if name in CVXPY:
        return CvxpyPortfolio(market, CVXPY[name])
    raise PaperError(f"portfolio: no method is named {name!r}. There are: {', '.join(LAYERS)}.")


def unusable_reason(name: str) -> str | None:
    """Return why a method cannot run here, or None."""
    return _solver_reason(FOLDED[name].solver["kind"]) if name in FOLDED else None


@cache
def _solver_reason(solver: str) -> str | None:
    problem = fc.QuadraticProgram(q=fc.Param(1), A=torch.ones(1, 1), b=torch.ones(1))
    try:
        fc.build({"problem": problem, "solver": solver, "rule": "newton", "adjoint": "direct"})
    except (fc.PluginUnusableError, fc.PluginNotInstalledError) as error:
        return str(error)
    return None
