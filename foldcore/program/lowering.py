"""Lower nonsmooth terms Σ w_i |(Dx)_i| to linear ones in auxiliary variables t >= |Dx|.

minimise f(x) + wᵀt  s.t.  Dx - t <= 0, -Dx - t <= 0: the form of equation (33) of Kotary, Dinh,
Fioretto. Solvers and certificates see the lowered program; rules that know proximal operators see
the original.

Terms of another form, and sets without rows, stay as they are: the lowered program is the original,
and its certificate uses their proximal operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..numerics.products import concatenate, matvec, to_dense
from ..param import Param
from ..quadratic.data import DATA_FIELDS, QuadraticData
from ..quadratic.template import QuadraticTemplate
from ..solution import Duals, Solution
from .functions import BatchedFunction
from .program import SmoothProgram
from .structure import ProblemClass, ProgramStructure, quadratic_structure

if TYPE_CHECKING:
    from ..atoms import Regularizer, SetAtom


class Lowering:
    """A program without regularizers that has the same solutions, and the way there and back.

    Attributes:
        original: The program as given.
        program: In variables (x, t); the original itself if it has no regularizers, or some that
            are no sums of absolute values.
        changes: Whether it is another program.
    """

    def __init__(self, original: SmoothProgram) -> None:
        self.original = original
        self._terms: list[tuple[Tensor, Tensor]] = []
        if original.regularizers and _lowerable(original.regularizers, original.sets):
            self._terms = [atom.absolute_terms(original.n) for atom in original.regularizers]
        self.changes = bool(self._terms)
        self.program = self._lower() if self.changes else original

    def complete(self, x: Tensor) -> Tensor:
        """Return (x, |Dx|) for points x, (B, n) -> (B, n + k); complete points are returned as is."""
        if x.shape[-1] == self.program.n:
            return x
        return torch.cat([x, *(matvec(operator, x).abs() for operator, _ in self._terms)], dim=-1)

    def restrict(self, solution: Solution) -> Solution:
        """Return a solution of the lowered program in the original's variables and rows."""
        if not self._terms:
            return solution
        n, duals = self.original.n, solution.duals
        if duals is not None:
            # The rows t >= |Dx| stand between the linear rows and those that are not linear.
            linear = self.original.data.n_linear
            others = linear + 2 * (self.program.n - n)
            rows = duals.inequality
            duals = Duals(
                equality=duals.equality,
                inequality=torch.cat([rows[:, :linear], rows[:, others:]], dim=-1),
                lower=duals.lower[:, :n],
                upper=duals.upper[:, :n],
            )
        return replace(solution, primal=solution.primal[:, :n], duals=duals)

    def complete_start(self, start: Solution) -> Solution:
        """Return a warm start of the original as one of the lowered program, without its duals."""
        if not self._terms:
            return start
        return replace(start, primal=self.complete(start.primal), duals=None)

    def _lower(self) -> SmoothProgram:
        original = self.original
        data = _lower_data(original.data, self._terms)
        wrapped = {
            role: _on_first(function, original.n)
            for role, function in original.functions.items()
            if role != "objective"
        }
        objective = original.functions.get("objective")
        if objective is not None:
            weights = concatenate([w for _, w in self._terms], dim=-1, sample_dims=1)
            wrapped["objective"] = _with_linear(objective, original.n, weights)
        return original.restated(data, wrapped)


def _on_first(function: BatchedFunction, n: int) -> BatchedFunction:
    return function.wrapped(lambda inner: lambda z, params: inner(z[:n], params), {})


def _with_linear(function: BatchedFunction, n: int, weights: Tensor) -> BatchedFunction:
    def wrap(
        inner: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
    ) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor]:
        return lambda z, params: inner(z[:n], params) + params["auxiliary weights"] @ z[n:]

    return function.wrapped(wrap, {"auxiliary weights": (weights, weights.ndim == 2)})


def _lower_data(data: QuadraticData, terms: Sequence[tuple[Tensor, Tensor]]) -> QuadraticData:
    k = sum(int(weights.shape[-1]) for _, weights in terms)
    n = data.n
    found: dict[str, Tensor] = {}

    def padded(value: Tensor, dims: int, fill: float = 0.0) -> Tensor:
        pad = (0, k) if dims == 1 else (0, k, 0, k)
        return torch.nn.functional.pad(value, pad, value=fill)

    for name, value in data.items():
        dense = to_dense(value)
        if name in ("P", "quadratic_P"):
            found[name] = padded(dense, 2)
        elif name in ("A", "G", "quadratic_q"):
            found[name] = padded(dense, 1)
        elif name in ("lower", "upper"):
            found[name] = padded(dense, 1, -float("inf") if name == "lower" else float("inf"))
        elif name != "q":
            found[name] = dense
    weights = [w for _, w in terms]
    like = weights[0]
    linear = like.new_zeros(n) if data.q is None else data.q
    found["q"] = concatenate([linear, *weights], dim=-1, sample_dims=1)
    rows = _epigraph_rows(terms, k)
    zeros = like.new_zeros(2 * k)
    held = [found["G"]] if "G" in found else []
    found["G"] = concatenate([*held, rows], dim=-2, sample_dims=2)
    held = [found["h"]] if "h" in found else []
    found["h"] = concatenate([*held, zeros], dim=-1, sample_dims=1)
    return QuadraticData(n=n + k, **found)


def _epigraph_rows(terms: Sequence[tuple[Tensor, Tensor]], k: int) -> Tensor:
    """Return [[D, -I], [-D, -I]] for the stacked operators, (2k, n + k) or (B, 2k, n + k)."""
    operator = concatenate([d for d, _ in terms], dim=-2, sample_dims=2)
    minus = -torch.eye(k, dtype=operator.dtype, device=operator.device)
    minus = minus.expand(*operator.shape[:-2], k, k)
    upper = torch.cat([operator, minus], dim=-1)
    lower = torch.cat([-operator, minus], dim=-1)
    return torch.cat([upper, lower], dim=-2)


def lowered_structure(
    structure: ProgramStructure,
    regularizers: Sequence[Regularizer],
    sets: Sequence[SetAtom],
    example: Mapping[str, Tensor],
) -> ProgramStructure:
    """Return the structure of the lowered program; of class NLP where it is the original.

    Args:
        structure: Of the original problem.
        regularizers: Its declared regularizers.
        sets: Its declared sets.
        example: Values of the regularizers' parameters and constants by name; only what does
            not depend on parameters is taken from them.

    Raises:
        UnsupportedError: If a term or set that cannot be lowered meets further constraints.
    """
    if not _lowerable(regularizers, sets):
        _check_certifiable(structure, regularizers, sets)
        return replace(structure, problem_class=ProblemClass.NLP)
    if not regularizers:
        return structure
    template = structure.template
    terms = [
        atom.bind(example, f"regularizer{i}").absolute_terms(structure.n)
        for i, atom in enumerate(regularizers)
    ]
    k = sum(int(weights.shape[-1]) for _, weights in terms)
    values = {
        name: torch.zeros(value.shape, dtype=torch.float64) if isinstance(value, Param) else value
        for name in DATA_FIELDS
        if (value := getattr(template, name)) is not None
    }
    data = _lower_data(QuadraticData(n=structure.n, **values), terms)
    varying = set(template.varying)
    if any(atom.params(f"regularizer{i}") for i, atom in enumerate(regularizers)):
        varying |= {"q", "G"}
    lowered = QuadraticTemplate.template(data, varying)
    smooth = structure.smooth_objective or structure.smooth_constraints
    base = quadratic_structure(lowered)
    return replace(
        structure,
        n=structure.n + k,
        n_inequality=structure.n_inequality + 2 * k,
        problem_class=ProblemClass.NLP if smooth else base.problem_class,
        template=lowered,
        sets=(),
        only_set=False,
        has_regularizers=False,
        has_prox=False,
        has_image_prox=False,
        auxiliary=k,
    )


def without_rows(regularizers: Sequence[Regularizer], sets: Sequence[SetAtom]) -> tuple[str, ...]:
    """Return the class names of the terms and sets that cannot be written as constraint rows."""
    terms = [term for term in regularizers if not term.has_absolute_terms]
    left = (*terms, *(atom for atom in sets if not atom.has_rows))
    return tuple(type(atom).__name__ for atom in left)


def _lowerable(regularizers: Sequence[Regularizer], sets: Sequence[SetAtom]) -> bool:
    return all(term.has_absolute_terms for term in regularizers) and all(s.has_rows for s in sets)


def _check_certifiable(
    structure: ProgramStructure, regularizers: Sequence[Regularizer], sets: Sequence[SetAtom]
) -> None:
    names = ", ".join(type(atom).__name__ for atom in (*regularizers, *sets))
    if not regularizers and not structure.only_set:
        raise UnsupportedError(
            f"Problem: a set without rows ({names}) must be the only constraint. Give all sets as "
            "regularizers=[Indicator(set), ...] instead."
        )
    if regularizers and not structure.unconstrained:
        raise UnsupportedError(
            f"Problem: these terms and sets have no linear rows ({names}), and a point that obeys "
            "further constraints could not be certified. Give the constraints as "
            "regularizers=[Indicator(set), ...] too."
        )
    if regularizers and not structure.has_image_prox:
        raise UnsupportedError(
            f"Problem: one of the terms ({names}) has neither a proximal operator nor linear rows. "
            "Give it as ProximalTerm(prox)."
        )
