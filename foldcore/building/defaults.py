"""Choice of the parts that a configuration leaves out, by the ranks that plugins declare."""

from __future__ import annotations

from ..errors import ConfigError
from ..interfaces.adjoint import AdjointSolver
from ..interfaces.rule import UpdateRule
from ..interfaces.solver import Solver
from ..problem.parametric import ParametricProblem
from ..program.structure import ProgramStructure
from ..registry.registry import adjoint_solvers, solvers, update_rules


def choose_solver(problem: ParametricProblem, rule: UpdateRule | None, path: str) -> Solver:
    """Return the usable solver of highest rank that can solve the problem.

    Solvers that run the update rule qualify if the rule (given, or the default one) converges.

    Raises:
        ConfigError: If none can; it says why for each.
    """
    structure = problem.lowered_structure
    integers = " with whole numbers" if structure.integer else ""
    reasons: list[str] = []
    candidates = sorted(solvers.usable_classes().items(), key=lambda item: -item[1].rank(structure))
    for name, solver_class in candidates:
        if solver_class.rank(structure) <= 0:
            continue
        solver = solver_class(solver_class.config_class())
        reason = solver_reason(solver, structure)
        if reason is None and solver.capabilities.needs_rule:
            reason = _iteration_reason(problem, rule)
        if reason is None:
            return solver
        reasons.append(f"{name}: {reason}")
    shown = "; ".join(reasons) or "no solver is installed that may be chosen by default"
    raise ConfigError(
        f"{path}: no installed solver can solve a problem of class "
        f"{structure.problem_class.value}{integers} ({shown}). Install a solver package, or pass a callable. "
        f"{solvers.availability()}"
    )


def solver_reason(solver: Solver, structure: ProgramStructure) -> str | None:
    """Return why a solver cannot solve problems of a lowered structure, or None where it can.

    Whole numbers are checked here and not in the solver's own answer, so that no plugin that never
    heard of them can be handed some.
    """
    if structure.integer and not solver.capabilities.discrete:
        columns = ", ".join(map(str, structure.integer))
        return f"columns {columns} are declared integer, and it does not solve for whole numbers"
    return solver.unsupported_reason(structure)


def _iteration_reason(problem: ParametricProblem, rule: UpdateRule | None) -> str | None:
    if rule is not None:
        converges = rule.converges(problem.structure)
        return None if converges else f"iterating {type(rule).__name__} finds no solution"
    found = any(
        candidate.unsupported_reason(problem.structure) is None
        and candidate.converges(problem.structure)
        for _, candidate in _rules(problem)
    )
    return None if found else "no installed update rule can be iterated on it"


def _rules(problem: ParametricProblem) -> list[tuple[str, UpdateRule]]:
    structure = problem.structure
    ranked = sorted(
        update_rules.usable_classes().items(), key=lambda item: -item[1].rank(structure)
    )
    return [
        (name, rule_class(rule_class.config_class()))
        for name, rule_class in ranked
        if rule_class.rank(structure) > 0
    ]


def choose_rule(
    problem: ParametricProblem, path: str, *, nested: bool, iterated: bool
) -> UpdateRule:
    """Return the usable rule of highest rank that serves the problem.

    Args:
        nested: For an inner fold: only rules without inner problems of their own, so that the
            recursion ends.
        iterated: The solver runs the rule: only rules whose iteration converges.

    Raises:
        ConfigError: If none serves; it says why for each.
    """
    reasons: list[str] = []
    for name, rule in _rules(problem):
        reason = rule.unsupported_reason(problem.structure)
        if reason is None and nested and rule.inner_problems(problem):
            reason = "it needs an inner problem itself"
        if reason is None and iterated and not rule.converges(problem.structure):
            reason = "its iteration does not find solutions"
        if reason is None:
            return rule
        reasons.append(f"{name}: {reason}")
    shown = "; ".join(reasons) or "none is installed"
    raise ConfigError(
        f"{path}: no installed update rule serves this problem ({shown}). Install a "
        f"rule's package, or use a solver that is differentiable itself. "
        f"{update_rules.availability()}"
    )


def serving_rules(problem: ParametricProblem) -> list[str]:
    """Return the names of the installed rules that serve a problem, the preferred ones first."""
    structure = problem.structure
    return [name for name, rule in _rules(problem) if rule.unsupported_reason(structure) is None]


def choose_adjoint(path: str) -> AdjointSolver:
    """Return the usable adjoint solver of highest rank.

    Raises:
        ConfigError: If none is installed.
    """
    ranked = sorted(adjoint_solvers.usable_classes().values(), key=lambda found: -found.rank)
    for adjoint_class in ranked:
        if adjoint_class.rank > 0:
            return adjoint_class(adjoint_class.config_class())
    raise ConfigError(f"{path}: no adjoint solver is installed. {adjoint_solvers.availability()}")
