"""The core's pydantic models: a layer's configuration, recursive by inner folds, and plugins' options."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .portable import PortableFunction

Policy = Literal["raise", "warn", "ignore"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class PluginConfig(BaseModel):
    """Options of one plugin: frozen, unknown options refused, every field described with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ToleranceConfig(PluginConfig):
    """When an answer counts as good, under the same names everywhere."""

    rtol: float = Field(
        1e-8, ge=0, description="Relative tolerance (dimensionless); below a few hundred "
        "machine epsilons of the dtype it has no further effect."
    )  # fmt: skip
    atol: float = Field(0.0, ge=0, description="Absolute tolerance, in units of the residual.")


class IterativeConfig(ToleranceConfig):
    """Options that every iterative method shares, under the same names everywhere.

    A fold inside another rule tightens ``rtol`` and ``atol`` to 1/100 of the outer ones where
    they were not set.
    """

    max_iter: int = Field(1000, ge=1, description="Largest number of iterations (count).")


class PluginReference(_Model):
    """Which plugin and with which options: ``"osqp"``, ``{kind: osqp, rtol: 1e-9}`` or an object."""

    kind: str | None = Field(None, description="Registered name, or dist:name where two clash.")
    options: Mapping[str, Any] = Field(
        default_factory=dict, description="The plugin's own options; checked against its config."
    )
    instance: Any = Field(
        None, description="A plugin object, a plugin class, or (solvers) a bare callable."
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, Mapping):
            if set(value) <= {"kind", "options", "instance"} and (
                "options" in value or "instance" in value
            ):
                return value
            if not isinstance(value.get("kind"), str):
                raise ValueError("a mapping needs the entry 'kind' with the plugin's name")
            return {
                "kind": value["kind"],
                "options": {name: option for name, option in value.items() if name != "kind"},
            }
        return {"instance": value}

    def __reduce__(self) -> tuple[Any, ...]:
        # Options and instances may hold bare functions, at any depth of inner folds.
        content = {name: getattr(self, name) for name in self.model_fields_set}
        return _reference_from, (
            PortableFunction(partial(PluginReference.model_construct, **content)),
        )


def _reference_from(make: PortableFunction) -> PluginReference:
    reference: PluginReference = make()
    return reference


class FixedPointConfig(_Model):
    """Certificate (b): the update rule's own residual at the returned point."""

    atol: float = Field(
        1e-6,
        gt=0,
        description="Largest ‖U(z) - z‖∞ / step, relative to 1 + ‖z‖∞ (dimensionless). "
        "Floored at 1e4 machine epsilons of the dtype.",
    )
    polish: int = Field(
        0, ge=0, description="Steps of the rule run from the solver's answer (count)."
    )
    on_violation: Policy = Field("warn", description="What to do where atol is exceeded.")


class KKTConfig(_Model):
    """Certificate (a): the scaled KKT residual of the returned point."""

    atol: float = Field(
        1e-5,
        gt=0,
        description="Largest scaled KKT residual (dimensionless). "
        "Floored at 1e4 machine epsilons of the dtype.",
    )
    reject_above: float = Field(
        1e-2, gt=0, description="A sample above this counts as failed, whatever its solver claims."
    )
    on_violation: Policy = Field("warn", description="What to do between atol and reject_above.")


class DegeneracyConfig(_Model):
    """What to do where the solution map has a kink: strict complementarity fails."""

    margin: float = Field(
        1e-8,
        ge=0,
        description="A sample whose scaled strict-complementarity margin is at most this counts as "
        "degenerate (dimensionless). Floored at 100 machine epsilons of the dtype.",
    )
    policy: Literal["one_sided", "minimum_norm", "raise"] = Field(
        "one_sided",
        description="Take the derivative of the side that the rule's own case distinctions choose, "
        "with a warning; or also accept the minimum-norm adjoint where the adjoint system is singular "
        "and the gradient not unique; or raise.",
    )


class FoldConfig(_Model):
    """Configuration of one fold. A rule's option for an inner problem is again a FoldConfig."""

    problem: Any = Field(
        None, description="A problem object or 'package.module:attribute'. Not set in inner folds."
    )
    solver: PluginReference | None = Field(
        None, description="The forward black box; chosen by class and size where None."
    )
    rule: PluginReference | None = Field(
        None,
        description="The update rule; chosen where None, none if the solver is differentiable.",
    )
    adjoint: PluginReference | None = Field(
        None, description="The adjoint solver; chosen where None."
    )
    relaxation: Literal["continuous", "fixed_integers"] | None = Field(
        None,
        description="What is solved and folded where a problem declares whole numbers, whose solutions "
        "have gradient zero almost everywhere: the problem without that demand; or the whole numbers "
        "that a discrete solver found, held fixed. Such a problem is refused where this is not set.",
    )
    mode: Literal["fold", "fixed_point_unfold", "unfold", "unroll"] = Field(
        "fold",
        description="How to differentiate: by one folded step, by steps on the graph from the "
        "solution, by steps on the graph from a starting point with inner folds, or likewise with "
        "inner problems unrolled too.",
    )
    iterations: int = Field(
        100, ge=1, description="Steps on the graph in the modes that have them (count)."
    )
    fixed_point: FixedPointConfig = Field(
        default_factory=FixedPointConfig, description="Certificate of the update rule."
    )
    kkt: KKTConfig = Field(
        default_factory=KKTConfig, description="Certificate from the problem's data."
    )
    degeneracy: DegeneracyConfig = Field(
        default_factory=DegeneracyConfig, description="Policy at degenerate solutions."
    )
    on_failure: Literal["raise", "mask"] = Field(
        "raise", description="A failed sample raises, or becomes NaN with zero gradient."
    )
    on_adjoint_failure: Literal["raise", "warn", "mask"] = Field(
        "raise",
        description="An adjoint that did not converge raises, is returned with a warning, "
        "or gives that sample a zero gradient with a warning.",
    )

    @model_validator(mode="after")
    def _check_iterations(self) -> FoldConfig:
        if self.mode == "fold" and "iterations" in self.model_fields_set:
            raise ValueError(
                "iterations has no effect in mode fold; set another mode or leave it out"
            )
        return self
