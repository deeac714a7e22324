"""build(config): compose problem, solver, rule and adjoint solver into a layer, recursively."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from torch import nn

from ..config import FoldConfig, IterativeConfig, PluginConfig, PluginReference
from ..errors import ConfigError
from ..fold.layer import Fold
from ..fold.relaxation import folded_problem, stage_of
from ..interfaces.rule import UpdateRule
from ..interfaces.solver import Solver
from ..problem.parametric import ParametricProblem
from ..registry.candidate import PluginT
from ..registry.registry import Registry, adjoint_solvers, solvers, update_rules
from ..solvers.callable import CallableSolver
from .defaults import choose_adjoint, choose_rule, choose_solver, serving_rules, solver_reason
from .reading import _explain, _problem, parse_config

_INNER_FACTOR = 0.01
"""Inner tolerances relative to outer ones, where the user set none."""
_INNER_FLOOR = 1e-10
"""Below this, solvers in float64 spend iterations on rounding."""
_LAYER_ATTRIBUTES = frozenset(
    {*dir(Fold), *vars(nn.Module()), "problem", "solver", "rule", "adjoint", "config",
     "path", "inner", "module", "integer", "_parts", "_stage", "_signature", "_buffer_names",
     "_module_names"}
)  # fmt: skip


def build(config: FoldConfig | Mapping[str, Any] | str | Path) -> Fold:
    """Build a differentiable layer.

    Args:
        config: A mapping, a :class:`FoldConfig`, or the path of a YAML or JSON file. Solver, rule
            and adjoint that are left out are chosen by the problem's class, from what is
            installed and usable (see docs/choosing.md).

    Raises:
        ConfigError: With the path in the configuration, what was given and what is possible; its
            subclasses tell the states of a plugin apart.
        ProblemError: If the problem's definition is wrong.
    """
    parsed = parse_config(config)
    problem = _problem(parsed.problem)
    return _build_fold(problem, parsed, path="", outer=None)


def _build_fold(
    problem: ParametricProblem, config: FoldConfig, path: str, outer: FoldConfig | None
) -> Fold:
    def at(part: str) -> str:
        return f"{path}.{part}" if path else part

    config = _inherit(config, outer)
    _check_names(problem)
    declared = problem
    problem = folded_problem(declared, config.relaxation, at("relaxation"))
    discrete = config.relaxation == "fixed_integers"
    inner_call = outer is not None
    solver = _plugin(config.solver, solvers, at("solver"), inner_call)
    rule = _plugin(config.rule, update_rules, at("rule"), inner_call)
    if solver is None:
        solver = choose_solver(declared if discrete else problem, rule, at("solver"))
    unrolled = config.mode in ("unfold", "unroll")
    for solved in (declared, problem) if discrete else (problem,):
        reason = solver_reason(solver, solved.lowered_structure)
        if reason is not None:
            raise ConfigError(
                f"{at('solver')}: {_name(solver)} cannot solve this problem: {reason}."
            )
    if rule is None and (unrolled or not solver.capabilities.differentiable):
        iterated = unrolled or solver.capabilities.needs_rule
        rule = choose_rule(problem, at("rule"), nested=inner_call, iterated=iterated)
    adjoint = None
    inner: dict[str, Fold] = {}
    if rule is not None:
        _check_rule(rule, solver, problem, path=at("rule"))
        adjoint = _plugin(config.adjoint, adjoint_solvers, at("adjoint"), inner_call)
        adjoint = adjoint or choose_adjoint(at("adjoint"))
        inner = _inner_folds(rule, problem, config, at("rule"))
    elif config.adjoint is not None:
        raise ConfigError(
            f"{at('adjoint')}: {_name(solver)} is differentiable by itself and no rule is set, so "
            f"an adjoint solver would have no effect. Name a rule, or leave the adjoint out."
        )
    stage = None
    if config.relaxation is not None:
        stage = stage_of(config.relaxation, declared.structure.integer)
    return Fold(
        problem,
        solver=solver,
        rule=rule,
        adjoint=adjoint,
        config=config,
        path=path,
        inner=inner,
        stage=stage,
    )


def _check_names(problem: ParametricProblem) -> None:
    for name, param in problem.params.items():
        if not name.isidentifier():
            raise ConfigError(
                f"problem: parameter name {name!r} cannot be passed by keyword; rename it."
            )
        # A learnable parameter becomes an attribute of the layer beside the layer's own.
        if name in ("self", "warm_start") or (param.learnable and name in _LAYER_ATTRIBUTES):
            raise ConfigError(f"problem: parameter name {name!r} is reserved by layers; rename it.")


def _check_rule(rule: UpdateRule, solver: Solver, problem: ParametricProblem, path: str) -> None:
    reason = rule.unsupported_reason(problem.structure)
    if reason is not None:
        serving = ", ".join(serving_rules(problem)) or "none"
        raise ConfigError(
            f"{path}: {_name(rule)} cannot serve this problem: {reason}. "
            f"Installed rules that can: {serving}."
        )
    if solver.capabilities.needs_rule and not rule.converges(problem.structure):
        raise ConfigError(
            f"{path}: {_name(solver)} runs the update rule, but iterating {_name(rule)} does not "
            f"find solutions of this problem. Name another solver, or another rule."
        )


def _inner_folds(
    rule: UpdateRule, problem: ParametricProblem, config: FoldConfig, path: str
) -> dict[str, Fold]:
    folds: dict[str, Fold] = {}
    for name, inner_problem in rule.inner_problems(problem).items():
        given = getattr(rule.config, name)
        inner_config = FoldConfig() if given is None else given
        if inner_config.problem is not None:
            raise ConfigError(
                f"{path}.{name}.problem: the rule defines the inner problem; leave it out."
            )
        folds[name] = _build_fold(inner_problem, inner_config, f"{path}.{name}", config)
    return folds


def _inherit(config: FoldConfig, outer: FoldConfig | None) -> FoldConfig:
    """Derive an inner fold's unset tolerances and policies from the outer fold's."""
    if outer is None:
        return config
    changes: dict[str, Any] = {}
    for part in ("fixed_point", "kkt"):
        own, above = getattr(config, part), getattr(outer, part)
        unset = set(type(own).model_fields) - own.model_fields_set - {"polish"}
        inherited = {name: getattr(above, name) for name in unset}
        if "atol" in inherited:
            inherited["atol"] *= _INNER_FACTOR
        changes[part] = own.model_copy(update=inherited)
    for policy in ("degeneracy", "on_failure", "on_adjoint_failure"):
        if policy not in config.model_fields_set:
            changes[policy] = getattr(outer, policy)
    if outer.mode == "unroll" and "mode" not in config.model_fields_set:
        changes["mode"] = "unroll"
        if "iterations" not in config.model_fields_set:
            changes["iterations"] = outer.iterations
    return config.model_copy(update=changes)


def _plugin(
    reference: PluginReference | None, registry: Registry[PluginT], path: str, inner: bool
) -> PluginT | None:
    if reference is None:
        return None
    if reference.kind is None:
        return _from_object(reference.instance, registry, path)
    plugin_class = registry.load(reference.kind, path)
    config = _plugin_config(plugin_class.config_class, reference.options, path, inner)
    return plugin_class(config)


def _from_object(given: Any, registry: Registry[PluginT], path: str) -> PluginT:
    interface = registry.interface
    if isinstance(given, type) and issubclass(given, interface):
        plugin_class = cast(Any, given)
        given = plugin_class(_plugin_config(plugin_class.config_class, {}, path, False))
    elif interface is Solver and not isinstance(given, Solver) and callable(given):
        given = CallableSolver(given)
    if not isinstance(given, interface):
        raise ConfigError(
            f"{path}: got {given!r}; expected a name, a mapping with 'kind', or an object of "
            f"{interface.__name__}{' or a callable' if interface is Solver else ''}."
        )
    return cast(PluginT, given)


def _plugin_config(
    config_class: type[PluginConfig], options: Mapping[str, Any], path: str, inner: bool
) -> PluginConfig:
    try:
        config = config_class.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(_explain(error, path, config_class)) from error
    if not inner or not isinstance(config, IterativeConfig):
        return config
    tightened = {
        name: min(value, max(value * _INNER_FACTOR, _INNER_FLOOR))
        for name in ("rtol", "atol")
        if name not in config.model_fields_set and (value := getattr(config, name)) > 0
    }
    return config.model_copy(update=tightened)


def _name(plugin: object) -> str:
    return type(plugin).__name__
