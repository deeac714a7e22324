"""Whether every option of a config has an effect that can be observed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ...config import PluginConfig
from ..check import ConformanceError
from .subject import Options, Setting

Observation = Mapping[str, object]
"""What one run showed, by aspect: bits of the answer, counts, statuses, what was printed."""


class Observed(Protocol):
    """A subject whose runs can be observed."""

    name: str
    options: Options
    notes: list[str]

    @property
    def config(self) -> PluginConfig: ...

    @property
    def config_class(self) -> type[PluginConfig]: ...

    def config_with(self, **options: Any) -> PluginConfig: ...

    def observable(self) -> Sequence[str]:
        """Return the names of the problems that runs can be observed on."""
        ...

    def observe(self, problem: str, options: Mapping[str, Any]) -> Observation | None:
        """Run under the base configuration with options changed; None where it refuses."""
        ...

    def used_by_build(self) -> Mapping[str, str]:
        """Return fields that build() reads instead of the plugin, each with a note."""
        ...


def require_effects(subject: Observed) -> None:
    """Require each field to change something, or its author to say where its effect is tested.

    Raises:
        ConformanceError: Naming all fields without effect and what was tried.
    """
    elsewhere = {
        name: f"{name}: effect said to be tested elsewhere: {reason}"
        for name, reason in subject.options.effects.items()
    }
    excused = {**subject.used_by_build(), **elsewhere}
    silent = []
    for name, field in subject.config_class.model_fields.items():
        if name in excused:
            subject.notes.append(excused[name])
            continue
        tried = _try(subject, name, field)
        if tried is not None:
            silent.append(f"{name} (tried {', '.join(tried) or 'nothing'})")
    if silent:
        raise ConformanceError(
            f"no effect of these options was observed: {'; '.join(silent)}. Make them reach what "
            f"they set, or tell the kit a telling value (settings={{...}}) or where the effect is "
            f"tested (effects={{...}})."
        )


def _try(subject: Observed, name: str, field: FieldInfo) -> list[str] | None:
    """Return None if a value of the field changed an observation, else the values tried."""
    tried = []
    for setting in _alternatives(subject, name, field):
        value = getattr(subject.config_with(**setting.given), name)
        if value == setting.value:
            continue
        tried.append(repr(setting.value))
        for problem in subject.observable():
            if setting.problem in (None, problem) and _differs(subject, problem, name, setting):
                return None
    return tried


def _differs(subject: Observed, problem: str, name: str, setting: Setting) -> bool:
    base = subject.observe(problem, setting.given)
    other = subject.observe(problem, {**setting.given, name: setting.value})
    if base is None or other is None:
        return False
    different = {aspect for aspect in base if base[aspect] != other[aspect]}
    if not different:
        return False
    # What differs between two equal runs, such as times in a message, shows nothing.
    again = subject.observe(problem, setting.given)
    return again is not None and any(base[aspect] == again[aspect] for aspect in different)


def _alternatives(subject: Observed, name: str, field: FieldInfo) -> Iterator[Setting]:
    if name in subject.options.settings:
        given = subject.options.settings[name]
        yield given if isinstance(given, Setting) else Setting(given)
        return
    for value in _guesses(field.annotation, getattr(subject.config, name)):
        try:
            subject.config_with(**{name: value})
        except ValidationError:
            continue
        yield Setting(value)


def _guesses(annotation: Any, value: Any) -> list[Any]:
    """Return values of a type that may show an effect; boundaries and orders of magnitude."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if annotation is bool:
        return [not value]
    if annotation is int:
        near = [value + 1, 2 * value] if isinstance(value, int) else []
        return [0, 1, 2, 3, *near]
    if annotation is float:
        scaled = [value * 1e-3, value * 1e3, value / 2] if isinstance(value, float) else []
        return [1e-9, *scaled, 1e-3, 0.5, 10.0]
    return [guess for part in get_args(annotation) for guess in _guesses(part, value)]
