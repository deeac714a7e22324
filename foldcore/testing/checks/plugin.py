"""Checks that every kind of plugin must pass: import, configuration, description, travel."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import tempfile
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ...registry.discovery import PluginState
from ..check import CheckList, Kind, require
from ..subjects.import_probe import ImportReport, probe_import
from ..subjects.subject import REGISTRIES, Subject

checks = CheckList(*Kind)

IMPORT_SECONDS = 2.0
"""Processor seconds that an import may take beyond foldcore, torch and declared dependencies."""


@checks(clause=11)
def check_loads(subject: Subject[Any]) -> None:
    """The plugin loads, fulfils its interface and states the version it was written for."""
    registry = REGISTRIES[subject.kind]
    if subject.registered is not None:
        info = registry.info(subject.registered)
        require(info.state is PluginState.USABLE, f"{info.state.value}: {info.error}")
        return
    with registry.registered("conformance-kit", subject.plugin_class, replace=True):
        info = registry.info("conformance-kit")
    require(info.state is PluginState.USABLE, f"{info.state.value}: {info.error}")


def _given_directly(subject: Subject[Any]) -> str:
    return "" if subject.registered else "a class was given, not the name of an installed plugin"


@checks(clause=11, condition="installed under a name", applies=_given_directly)
def check_import_time(subject: Subject[Any]) -> None:
    """Importing it takes at most 2 s of processor time beyond its declared dependencies."""
    report = _imported(subject)
    if report.processor_seconds > IMPORT_SECONDS:  # a first run may have compiled bytecode
        info = REGISTRIES[subject.kind].info(subject.registered or "")
        report = _probe(info.target, info.package or "")
    require(
        report.processor_seconds <= IMPORT_SECONDS,
        f"its import took {report.processor_seconds:.1f} s of processor time beyond foldcore, torch "
        f"and its declared dependencies; at most {IMPORT_SECONDS:.0f} s is allowed. Import what is "
        f"heavy where it is used.",
    )


@checks(clause=11, condition="installed under a name", applies=_given_directly)
def check_import_changes_nothing(subject: Subject[Any]) -> None:
    """Importing it prints nothing, changes no global state and loads no other plugin."""
    report = _imported(subject)
    require(not report.error, f"its import in a fresh process raised {report.error}.")
    require(not report.output.strip(), f"its import printed {report.output.strip()[:200]!r}.")
    require(not report.changed, f"its import changed {', '.join(report.changed)}.")
    own = _target(subject).partition(":")[0].partition(".")[0]
    others = {
        candidate.target.partition(":")[0].partition(".")[0]
        for registry in REGISTRIES.values()
        for candidate in registry.describe()
        if candidate.target
    }
    loaded = {module.partition(".")[0] for module in report.modules} & (others - {own, "foldcore"})
    require(not loaded, f"its import loaded other plugins: {', '.join(sorted(loaded))}.")


def _imported(subject: Subject[Any]) -> ImportReport:
    info = REGISTRIES[subject.kind].info(subject.registered or "")
    return _probe_once(info.target, info.package or "")


@cache
def _probe_once(target: str, package: str) -> ImportReport:
    """Probe once per process, for all kinds and configurations that a plugin is checked in."""
    return _probe(target, package)


def _probe(target: str, package: str) -> ImportReport:
    handle, file = tempfile.mkstemp(suffix=".json")
    os.close(handle)
    try:
        return probe_import(target, package, file)
    except (TimeoutError, OSError) as error:
        require(False, f"{error}.")
        raise
    finally:
        os.unlink(file)


def _target(subject: Subject[Any]) -> str:
    return REGISTRIES[subject.kind].info(subject.registered or "").target


@checks(clause=10)
def check_config(subject: Subject[Any]) -> None:
    """Its config has defaults, is frozen, refuses unknown options and has a JSON schema."""
    model = subject.config_class
    title = model.__name__
    try:
        config = model()
    except ValidationError as error:
        require(False, f"{title}() needs options; every field must have a default: {error}.")
        raise
    require(bool(model.model_config.get("frozen")), f"{title} is not frozen; derive PluginConfig.")
    require(
        model.model_config.get("extra") == "forbid",
        f"{title} accepts options that it does not know, so a typo would pass silently.",
    )
    json.dumps(model.model_json_schema())
    again = model.model_validate(config.model_dump(exclude_unset=True))
    require(again == config, f"{title} does not survive model_dump and model_validate.")
    plugin = subject.plugin()
    require(
        plugin.config == subject.config,
        f"{type(plugin).__name__}(config).config is not the config that it was built from.",
    )


@checks(clause=10)
def check_documented(subject: Subject[Any]) -> None:
    """Class, config and every option say what they are for; numbers name their unit."""
    for item in (subject.plugin_class, subject.config_class):
        require(bool(_own_doc(item)), f"{item.__name__} has no docstring of its own.")
    for name, field in subject.config_class.model_fields.items():
        text = field.description or ""
        require(bool(text.strip()), f"option {name!r} has no description.")
        if _is_number(field):
            named = "(" in text or "unit" in text
            require(named, f"option {name!r} does not name its unit: {text!r}.")


def _own_doc(item: type[Any]) -> str:
    return inspect.cleandoc(vars(item).get("__doc__") or "")


def _is_number(field: FieldInfo) -> bool:
    return field.annotation in (int, float)


@checks(clause=9)
def check_pickling(subject: Subject[Any]) -> None:
    """It can be pickled and deep-copied, with its config."""
    plugin = subject.plugin()
    try:
        twins = [pickle.loads(pickle.dumps(plugin)), copy.deepcopy(plugin)]
    except Exception as error:  # pickling runs the plugin's own code
        require(False, f"it cannot be pickled or copied: {type(error).__name__}: {error}.")
        raise
    for twin in twins:
        require(type(twin) is type(plugin), f"its copy is a {type(twin).__name__}.")
        require(twin.config == plugin.config, "its copy has another config.")
