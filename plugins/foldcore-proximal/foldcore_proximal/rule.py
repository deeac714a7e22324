"""Proximal gradient: U(x) = prox_{αR}(x - α ∇f(x)).

Source: Kotary, Dinh, Fioretto, "Backpropagation of Unrolled Solvers with Folded Optimization",
equation (6); convergence for α < 2/L: Beck, First-Order Methods in Optimization (2017), section 10.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from foldcore import (
    BoundRule,
    Constants,
    GradientStep,
    Indicator,
    InnerFold,
    ProgramStructure,
    RuleOfConstants,
    SetAtom,
    SmoothProgram,
    prepared_projection,
)

from .config import ProximalConfig


class ProximalRule(RuleOfConstants):
    """One proximal gradient step on a smooth objective plus one term with a known prox."""

    api_version = 2
    config_class = ProximalConfig

    def __init__(self, config: ProximalConfig) -> None:
        self.config: ProximalConfig = config

    @classmethod
    def rank(cls, structure: ProgramStructure) -> float:
        return 6.0 if structure.has_prox else 1.0

    def converges(self, structure: ProgramStructure) -> bool:
        known_step = isinstance(self.config.step_size, float) or not structure.smooth_objective
        return known_step and structure.convex is not False

    def unsupported_reason(self, structure: ProgramStructure) -> str | None:
        if structure.has_regularizers:
            if not structure.unconstrained:
                return (
                    "it has constraints beside its nonsmooth terms; lowered to rows in t >= |Dx| it "
                    "can be served by a rule for constrained problems"
                )
            if not structure.has_prox:
                return (
                    "its nonsmooth terms are not one term with a proximal operator in closed form; "
                    "for g(Dx), such as L1 with an operator, or several terms, use rule: fdpg"
                )
            return None
        if structure.unconstrained or structure.only_set:
            return None
        return (
            "its constraints are not one set with a projection; give one set as "
            "constraints=[...], or use rule: pgd with an inner fold"
        )

    def bind_with(
        self, program: SmoothProgram, inner: Mapping[str, InnerFold], constants: Constants
    ) -> BoundRule:
        prox, failed = _prepared(program, constants)
        return GradientStep(program, prox, self.config.step_size, failed, constants)


def _prepared(
    program: SmoothProgram, constants: Constants
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor | None]:
    """Return the proximal operator and the samples that it fails for, (B,) bool; None for none."""
    term = program.regularizers[0] if program.regularizers else None
    only_set: SetAtom | None = term.set_atom if isinstance(term, Indicator) else None
    if program.sets:
        only_set = program.sets[0]
    if only_set is not None:
        # Factored once here: a projection that is asked for anew factors at every step.
        projection = prepared_projection(only_set, ("sets", "regularizers"), constants)
        return (lambda y, step: projection(y)), projection.failed
    if term is None:
        return (lambda y, step: y), None
    return term.prox, None
